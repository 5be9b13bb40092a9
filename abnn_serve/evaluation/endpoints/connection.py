"""HTTP to an endpoint: keys, timeouts, retries, and Retry-After."""

from __future__ import annotations

import datetime as dt
import email.utils
import importlib.util
import threading
import time
from typing import TYPE_CHECKING, Any

from abnn_serve.errors import ConfigError, one_line
from abnn_serve.evaluation.endpoints.usage import Usage

if TYPE_CHECKING:
    import httpx

_TRIES = 6
_FIRST_WAIT = 0.5  # seconds, doubled after each try
_LONGEST_WAIT = 600.0  # seconds
_BUSY = (429, 502, 503, 504)
_RESUME = "finished batches are kept: run the command again later to resume"


class Connection:
    """Sends requests to one host; threads may share it.

    Args:
        key: API key, sent as a bearer token; None sends none.
        timeout: seconds to wait for a response.
        usage: counts requests and answers.
    """

    def __init__(self, key: str | None, timeout: float, usage: Usage) -> None:
        if importlib.util.find_spec("httpx") is None:
            raise ConfigError("endpoints need httpx; install it with: pip install 'abnn_serve[foreign]'")
        import httpx

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=False)
        self._has_key, self._timeout, self.usage = key is not None, timeout, usage
        self._lock = threading.Lock()
        self._not_before = 0.0  # monotonic time until which the endpoint asked to wait

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def get(self, url: str) -> Any:
        """The JSON at a URL, asked once; ConfigError says what is wrong."""
        response = self._try("GET", url)
        if isinstance(response, str):
            raise ConfigError(f"{url}: {response}")
        self._check(response, url)
        return _json(response, url)

    def post(self, url: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        """The response to a request, which is sent again while the endpoint is busy or does not answer."""
        wait = _FIRST_WAIT
        for last in (number == _TRIES for number in range(1, _TRIES + 1)):
            self._wait()
            response = self._try("POST", url, content=content, headers=headers)
            if isinstance(response, str):
                problem, asked = response, None
            elif response.status_code in _BUSY:
                problem, asked = f"answers {response.status_code}", _retry_after(response.headers.get("retry-after"))
            else:
                self._check(response, url)
                return response
            if last:
                raise ConfigError(f"{url}: {problem}, {_TRIES} times in a row; {_RESUME}")
            if asked is not None and asked > _LONGEST_WAIT:
                raise ConfigError(f"{url}: {problem} and asks to wait {asked:,.0f} s; {_RESUME}")
            self._hold(wait if asked is None else asked)
            wait *= 2
        raise AssertionError

    def _try(self, method: str, url: str, **options: Any) -> httpx.Response | str:
        """One request: its response, or why there is none."""
        import httpx

        try:
            response = self._client.request(method, url, **options)
        except httpx.TimeoutException:
            self.usage.answered("timeout")
            return f"no answer within {self._timeout:g} s; is it slow? raise --timeout"
        except httpx.TransportError as error:
            self.usage.answered("no connection")
            return f"cannot connect ({one_line(error)}); is the service running?"
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url} is not an address ({one_line(error)})") from None
        self.usage.answered(str(response.status_code))
        return response

    def _check(self, response: httpx.Response, url: str) -> None:
        status = response.status_code
        if status in (401, 403):
            wants = "refuses the key" if self._has_key else "wants a key"
            raise ConfigError(f"{url} {wants} ({status}); put it into an environment variable and give --key-env NAME")
        if response.is_redirect:
            raise ConfigError(f"{url} redirects to {response.headers.get('location', '')[:200]}; give that address")
        if not response.is_success:
            raise ConfigError(f"{url} answers {status}: {_line(response.text, 200) or 'without a message'}")

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _wait(self) -> None:
        seconds = self._not_before - time.monotonic()
        if seconds > 0:
            time.sleep(seconds)
            self.usage.wait(seconds)


def _json(response: httpx.Response, url: str) -> Any:
    try:
        return response.json()
    except ValueError:
        raise ConfigError(f"{url} does not answer JSON, but {_line(response.text, 80)!r}") from None


def _line(text: str, length: int) -> str:
    return " ".join(text[:length].split())


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date - dt.datetime.now(dt.UTC)).total_seconds())
