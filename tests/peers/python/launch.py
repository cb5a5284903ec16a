"""plumbery in a process of its own, as a person at a terminal runs it."""

import os
import subprocess
import sys
import time

import paramiko


def identity(folder):
    """Makes the operator's key; its public half is where plumbery is told to look."""
    key = paramiko.RSAKey.generate(2048)
    with open(public_key(folder), "w") as file:
        file.write("ssh-rsa " + key.get_base64() + " operator")
    return key


def public_key(folder):
    return os.path.join(folder, "operator.pub")


def launch(plan, action, folder, secret, **environment):
    """Runs an action; gives what plumbery said. It must end well, with no error logged on the way."""
    launcher = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_plumbery.py")
    environment = dict(os.environ, SHARED_SECRET=secret, SHARED_KEY=public_key(folder), **environment)
    started = time.monotonic()
    ended = subprocess.run([sys.executable, launcher, plan, action], cwd=folder, env=environment,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    errors = [line for line in ended.stdout.splitlines() if "\033[31m" in line]
    assert ended.returncode == 0 and not errors, action + ":\n" + ended.stdout + "\n".join(errors)
    print("{}: {:.1f} s".format(action, time.monotonic() - started), flush=True)
    return ended.stdout
