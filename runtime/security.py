"""Who may speak for which tenant.

Without tokens every client may name any tenant: right for a laptop, where everything listens on 127.0.0.1. With
tokens, a client is the tenant of its token and no other.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from runtime.keys import check_tenant


class Unauthorised(Exception):
    """The token is missing, unknown, or does not speak for the tenant that was named."""


class Tokens:
    def __init__(self, tenant_by_token: Mapping[str, str]) -> None:
        for tenant in tenant_by_token.values():
            check_tenant(tenant)
        self._tenant_by_token = dict(tenant_by_token)

    def tenant_of(self, token: str, tenant: str) -> str:
        """The tenant a client speaks for. Raises Unauthorised, or InvalidId for a name that no tenant can have."""
        if not self._tenant_by_token:
            return check_tenant(tenant)
        for known, owner in self._tenant_by_token.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                if tenant not in ("", "default", owner):
                    raise Unauthorised(f"the token does not speak for tenant {tenant!r}")
                return owner
        raise Unauthorised("the token is missing or unknown")

    def speaks_for(self, token: str, tenant: str) -> bool:
        """Is a client with this token still the tenant that it was found to be?"""
        try:
            return self.tenant_of(token, tenant) == tenant
        except Unauthorised:
            return False
