"""What a Redis does in one atomic step, in Lua. Every key that is touched is declared, as a cluster demands.

    KEYS   first the owner hash of each group that is named: its epoch is checked before anything else happens
    ARGV   first how many groups, then the expected epoch of each; then what is the script's own

Answers of a script that refuses: {"fenced", place of the group among the keys, its epoch}, {"overtaken", number of the
write that was there before}.
"""

CHECK_EPOCHS = """
local groups = tonumber(ARGV[1])
for i = 1, groups do
    local epoch = redis.call('HGET', KEYS[i], 'epoch') or '0'
    if epoch ~= ARGV[1 + i] then return {'fenced', i, epoch} end
end
local key, arg = groups + 1, groups + 2
"""

# then the number of the write: what a cut network or a stopped server has held back may come after what came later
CHECK_TURN = """
local number = ARGV[arg]
arg = arg + 1
for i = 1, groups do
    local last = redis.call('HGET', KEYS[i], 'write')
    if last and tonumber(last) > tonumber(number) then return {'overtaken', last} end
end
for i = 1, groups do redis.call('HSET', KEYS[i], 'write', number) end
"""

# then per session: records, names, history | field, sealed, not_before, oldest, how many pieces, (version, piece) ...
# A piece of the history is as old as its first version; those before the one that holds `oldest` are too old.
WRITE = """
while key <= #KEYS do
    local records, names, history = KEYS[key], KEYS[key + 1], KEYS[key + 2]
    local field, oldest, pieces = ARGV[arg], ARGV[arg + 3], tonumber(ARGV[arg + 4])
    redis.call('HSET', records, field, ARGV[arg + 1])
    redis.call('ZADD', names, 0, field)
    redis.call('ZREMRANGEBYSCORE', history, ARGV[arg + 2], '+inf')
    arg = arg + 5
    for piece = 1, pieces do
        redis.call('ZADD', history, ARGV[arg], ARGV[arg + 1])
        arg = arg + 2
    end
    local holds = redis.call('ZREVRANGEBYSCORE', history, oldest, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if holds[2] then redis.call('ZREMRANGEBYSCORE', history, '-inf', '(' .. holds[2]) end
    key = key + 3
end
return {'done'}
"""

# then one session: records, names, history | field
DELETE = """
local existed = redis.call('HDEL', KEYS[key], ARGV[arg])
redis.call('ZREM', KEYS[key + 1], ARGV[arg])
redis.call('DEL', KEYS[key + 2])
return {'done', existed}
"""

# then the owner
CLAIM = """
for i = 1, groups do
    redis.call('HSET', KEYS[i], 'owner', ARGV[arg], 'epoch', tonumber(ARGV[1 + i]) + 1)
    redis.call('HDEL', KEYS[i], 'write')
end
return {'done'}
"""

# leases | owner, count
RENEW = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {'fenced'} end
redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
return {'done'}
"""
REVOKE = """
local count = redis.call('HGET', KEYS[1], ARGV[1])
if count and count ~= ARGV[2] then return {'fenced'} end
redis.call('HDEL', KEYS[1], ARGV[1])
return {'done'}
"""

# records, history | field: a session with its history, of one moment
READ_WHOLE = """
return {redis.call('HGET', KEYS[1], ARGV[1]), redis.call('ZRANGE', KEYS[2], 0, -1)}
"""

SAVE_SCRIPT = CHECK_EPOCHS + CHECK_TURN + WRITE
DELETE_SCRIPT = CHECK_EPOCHS + CHECK_TURN + DELETE
CLAIM_SCRIPT = CHECK_EPOCHS + CLAIM
