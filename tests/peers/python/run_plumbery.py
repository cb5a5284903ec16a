"""plumbery 17.5.22, unmodified, on today's Python: `run_plumbery.py PLAN ACTION ...`, as `python -m plumbery`.

Gives it what has gone from the language and its libraries since 2017, and ends as it should where errors were
logged. NODES_PORT, if set, is where the nodes of a cloud without machines answer SSH instead of port 22, which
only root may open.
"""

import builtins
import os
import sys
import time
import types

import paramiko
import yaml

time.clock = time.process_time
builtins.xrange = range
sys.modules.setdefault("parser", types.ModuleType("parser"))
_load, _load_all = yaml.load, yaml.load_all
yaml.load = lambda stream, Loader=yaml.SafeLoader: _load(stream, Loader)
yaml.load_all = lambda stream, Loader=yaml.SafeLoader: _load_all(stream, Loader)

from plumbery.__main__ import main  # noqa: E402
from plumbery.engine import PlumberyEngine  # noqa: E402
from plumbery.plogging import plogging  # noqa: E402

_save_secrets = PlumberyEngine.save_secrets


def save_secrets(self, plan=None):
    """Generated keys are bytes since Python 3, and do not fit a text file."""
    texts = {name: value.decode() for name, value in self.secrets.items() if isinstance(value, bytes)}
    self.secrets.update(texts)
    return _save_secrets(self, plan)


PlumberyEngine.save_secrets = save_secrets

if os.environ.get("NODES_PORT"):
    _connect = paramiko.SSHClient.connect

    def connect(self, hostname, port=22, **more):
        return _connect(self, hostname, port=int(os.environ["NODES_PORT"]), **more)

    paramiko.SSHClient.connect = connect

main()
sys.exit(1 if plogging.foundErrors() else 0)
