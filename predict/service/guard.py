"""Who may ask, how much, and what a refusal looks like."""

import hmac
import ipaddress
import math
import time
from collections import Counter, deque

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.formparsers import MultiPartException, MultiPartParser

FORM_BYTES = 1 << 14  # of a form around its file
WINDOW_SECONDS = 60.0  # of the rate limit
RETRY_SECONDS = 5
STATUS = {
    "empty": 400,
    "not_audio": 415,
    "too_large": 413,
    "too_long": 413,
    "token": 401,
    "unknown": 404,
    "too_many": 429,
    "busy": 503,
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refusal(Exception):
    """An answer with a reason of STATUS."""

    def __init__(self, reason: str, detail: str, retry: float = RETRY_SECONDS) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.retry = reason, detail, math.ceil(retry)

    def answer(self) -> JSONResponse:
        """Return it as JSON."""
        headers = {"Retry-After": str(self.retry)} if self.reason in ("busy", "too_many") else {}
        if self.reason in ("too_large", "too_many", "busy"):
            headers["Connection"] = "close"  # so that the rest of it is not taken
        if self.reason == "token":
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": self.reason, "detail": self.detail}, STATUS[self.reason], headers)


class Gate:
    """Lets so many sounds in at once, and so many a minute of one client; an eighth of the places is for others.

    Used from the event loop only. A client whose sounds are all older than a minute is forgotten.
    """

    def __init__(self, queue: int, per_minute: int) -> None:
        """Take the most sounds that may be inside, and the most of one client within a minute."""
        self.queue, self.per_minute, self.inside = queue, per_minute, 0
        self.most = max(1, queue - -(-queue // 8))  # of one client, whose sounds may be slow to arrive
        self._times: dict[str, deque[float]] = {}  # of each client, the oldest first; clients by their last
        self._places: Counter[str] = Counter()  # of each client that has some

    def enter(self, client: str, now: float | None = None) -> None:
        """Take a place.

        Raises:
            Refusal: if there is none: busy or too_many.
        """
        now = time.monotonic() if now is None else now
        while self._times and self._times[oldest := next(iter(self._times))][-1] <= now - WINDOW_SECONDS:
            del self._times[oldest]
        times = self._times.get(client, deque())
        while times and times[0] <= now - WINDOW_SECONDS:
            times.popleft()
        if len(times) >= self.per_minute:
            wait = times[0] + WINDOW_SECONDS - now
            raise Refusal("too_many", f"At most {self.per_minute} sounds a minute, please.", wait)
        if self.inside >= self.queue or self._places[client] >= self.most:
            raise Refusal("busy", "Too many sounds are waiting. Try again in a moment.")
        times.append(now)
        self._times.pop(client, None)
        self._times[client] = times
        self.inside += 1
        self._places[client] += 1

    def leave(self, client: str) -> None:
        """Give a place back."""
        self.inside -= 1
        self._places[client] -= 1
        if not self._places[client]:
            del self._places[client]


def client_of(request: Request, proxies: int = 0) -> str:
    """Return whom the rate limit counts: an IPv4 address, or the /64 network of an IPv6 address.

    Args:
        request: from the network.
        proxies: how many there are that append the address they were asked from to X-Forwarded-For: the client is as
            many entries from its end. What stands before that, anybody may have written.
    """
    hosts = [request.client.host if request.client else ""]
    named = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    if 0 < proxies <= len(named):
        hosts.insert(0, named[-proxies].strip())
    for host in hosts:
        bare = host.partition(":")[0] if host.count(":") == 1 else host.partition("]")[0].lstrip("[")  # some add a port
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            continue
        address = getattr(address, "ipv4_mapped", None) or address
        return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
    return ""


def check_token(request: Request, token: str) -> None:
    """Let a request with the right token pass.

    Raises:
        Refusal: otherwise.
    """
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise Refusal("token", "This service asks for a token: Authorization: Bearer TOKEN")


async def read_body(request: Request, most: int) -> bytes:
    """Return the body, read no further than allowed.

    Raises:
        Refusal: if it is too large.
    """
    refusal = Refusal("too_large", f"A sound has at most {most:,} bytes here.")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise refusal
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise refusal
    return bytes(body)


async def read_sound(request: Request, most: int) -> bytes:
    """Return the sound of a request: the part called file of a form, or the body itself.

    Raises:
        Refusal: if there is none, or it is too large.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await read_body(request, most)
    body = await read_body(request, most + FORM_BYTES)

    async def once():
        yield body

    try:
        form = await MultiPartParser(request.headers, once(), max_files=1, max_fields=4).parse()
    except (MultiPartException, LookupError, UnicodeError) as error:
        raise Refusal("not_audio", f"The form cannot be read: {error}") from None
    file = form.get("file")
    if file is None or isinstance(file, str):
        raise Refusal("empty", "The form has no file in a part called file.")
    sound = await file.read()
    await form.close()
    if len(sound) > most:
        raise Refusal("too_large", f"A sound has at most {most:,} bytes here.")
    return sound
