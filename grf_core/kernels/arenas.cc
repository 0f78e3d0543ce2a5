// Memory for Python's small objects, in huge pages: two of its arenas to a page of two megabytes.
//
// A worker walks over what it knows of many sessions, some hundred megabytes of small objects. In pages of four kilobytes
// more of the addresses have to be looked up than a processor remembers, in huge ones they fit.
//
// Python calls this with its lock held. What Linux does not give as a huge page it gives as small ones.
#ifdef __linux__
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>

namespace {

constexpr uintptr_t PAGE = 2 << 20, ARENA = 1 << 20;  // bytes; ARENA_SIZE of Python 3.10 and newer

struct Pages {
  std::map<uintptr_t, int> used;  // by the address of a page: its arenas, 1 for the first and 2 for the second
  std::set<uintptr_t> with_room;  // pages of one arena
};

// Never destroyed: Python may let go of an arena after whatever is destroyed at the end.
Pages& pages() {
  static Pages& pages = *new Pages;
  return pages;
}

uintptr_t map(uintptr_t size) {
  void* place = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return place == MAP_FAILED ? 0 : reinterpret_cast<uintptr_t>(place);
}

void unmap(uintptr_t place, uintptr_t size) {
  if (size) munmap(reinterpret_cast<void*>(place), size);
}

// A new page at an address that a huge one can have; 0 if there is no memory.
uintptr_t new_page() {
  uintptr_t page = map(PAGE);
  if (page % PAGE) {  // not beside another one: of twice as much, what lies right
    unmap(page, PAGE);
    uintptr_t place = map(2 * PAGE);
    if (!place) return 0;
    page = (place + PAGE - 1) & ~(PAGE - 1);
    unmap(place, page - place);
    unmap(page + PAGE, place + PAGE - page);
  }
  if (page) madvise(reinterpret_cast<void*>(page), PAGE, MADV_HUGEPAGE);
  return page;
}

}  // namespace

extern "C" {

// `alloc` of a PyObjectArenaAllocator.
void* grf_arena(void*, size_t size) {
  if (size != ARENA) return reinterpret_cast<void*>(map(size));
  Pages& all = pages();
  if (!all.with_room.empty()) {
    uintptr_t page = *all.with_room.begin();
    all.with_room.erase(page);
    int& used = all.used[page];
    uintptr_t arena = used == 1 ? page + ARENA : page;
    used = 3;
    return reinterpret_cast<void*>(arena);
  }
  uintptr_t page = new_page();
  if (page) {
    all.used[page] = 1;
    all.with_room.insert(page);
  }
  return reinterpret_cast<void*>(page);
}

// `free` of a PyObjectArenaAllocator: of an arena of ours, or of Python's own from before.
void grf_arena_freed(void*, void* place, size_t size) {
  uintptr_t arena = reinterpret_cast<uintptr_t>(place), page = arena & ~(PAGE - 1);
  Pages& all = pages();
  auto known = size == ARENA ? all.used.find(page) : all.used.end();
  if (known == all.used.end()) return unmap(arena, size);
  known->second &= arena == page ? ~1 : ~2;
  if (known->second) {
    all.with_room.insert(page);
    return;
  }
  all.with_room.erase(page);
  all.used.erase(known);
  unmap(page, PAGE);
}
}
#endif
