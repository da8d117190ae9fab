"""What each client has had, so that one with many requests leaves the others their share.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): every
token that is computed for a client is charged to it, and of those who wait the one that has had
least goes next. Who comes back from a pause gets no credit for it: its counter is lifted to the
least of those who are there.
"""


class Account:
    """One client's counter."""

    __slots__ = ("client", "num_requests", "served", "weight")

    def __init__(self, client: str = "", served: float = 0.0) -> None:
        self.client = client
        self.served = served
        """Tokens, each divided by the weight of its time."""
        self.weight = 1.0
        self.num_requests = 0

    def charge(self, num_tokens: int) -> None:
        self.served += num_tokens / self.weight


class Accounts:
    """Of all clients that have requests, and of those that have had more than these."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def join(self, client: str, weight: float) -> Account:
        """A request of the client comes; the latest weight counts."""
        account = self._accounts.get(client)
        if account is None or not account.num_requests:
            account = self._open(client, account)
        account.weight = weight
        account.num_requests += 1
        return account

    def leave(self, account: Account) -> None:
        """A request of the client has ended."""
        account.num_requests -= 1

    def _open(self, client: str, account: Account | None) -> Account:
        least = min((a.served for a in self._accounts.values() if a.num_requests), default=None)
        if least is None:  # nobody is there to be compared with
            self._accounts.clear()
        else:  # who would be lifted can be forgotten
            kept = {c: a for c, a in self._accounts.items() if a.num_requests or a.served > least}
            self._accounts = kept
        account = self._accounts.setdefault(client, account or Account(client))
        account.served = 0.0 if least is None else max(account.served, least)
        return account
