"""What the cloud holds, asked in JSON with no client library in between."""

import os
import time

import requests



class Held:
    """The API of one region, by its host name and through the proxy of the environment."""

    def __init__(self, host="api-eu.dimensiondata.com", version="2.4", patience=30):
        """`patience`, in seconds, is how long an operation may take."""
        self.patience = patience
        self.base = "https://" + host
        self.version = version
        self.http = requests.Session()
        self.http.auth = (os.environ["MCP_USERNAME"], os.environ["MCP_PASSWORD"])
        self.http.headers["Accept"] = "application/json"
        user = self.http.get(self.base + "/caas/2.4/user/myUser").json()
        self.organisation = user["organization"]["id"]

    def answer(self, path, version=None, **query):
        version = version or self.version
        url = "{}/caas/{}/{}/{}".format(self.base, version, self.organisation, path)
        return self.http.get(url, params=query)

    def get(self, path, **query):
        answer = self.answer(path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def all(self, path, **query):
        """Everything a list has."""
        page = self.get(path, **query)
        lists = [value for value in page.values() if isinstance(value, list)]
        assert len(lists) == 1 and len(lists[0]) == page["pageCount"] == page["totalCount"], page
        return lists[0]

    def one(self, path, **query):
        """The only thing a list has."""
        found = self.all(path, **query)
        assert len(found) == 1, found
        return found[0]

    def settled(self, path):
        """The thing at `path` once nothing is under way for it."""
        deadline = time.monotonic() + self.patience
        while True:
            found = self.get(path)
            if not found["state"].startswith("PENDING_"):
                assert "progress" not in found or found["state"].startswith("FAILED_"), found
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def gone(self, path):
        """Waits until there is nothing at `path`."""
        deadline = time.monotonic() + self.patience
        while True:
            answer = self.answer(path)
            if answer.status_code == 400 and answer.json()["responseCode"] == "RESOURCE_NOT_FOUND":
                return
            assert answer.status_code == 200 and time.monotonic() < deadline, answer.text
            time.sleep(0.02)

    def fault(self, **fault):
        answer = self.http.post(self.base + "/fleet/fault", json=fault)
        assert answer.status_code == 200, answer.text


def refused(code, call, *arguments, **named):
    """Calls, and wants to be refused with `code`."""
    try:
        outcome = call(*arguments, **named)
    except Exception as error:
        assert code in str(error), "wanted {}, got {!r}".format(code, error)
        return
    raise AssertionError("wanted {}, got {!r}".format(code, outcome))
