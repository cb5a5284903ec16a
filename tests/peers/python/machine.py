"""A server's machine, from within: by SSH to its public address."""

import socket
import time

import paramiko

# When a machine is taken to hang: an emulated boot, twice, on a host that may have other things to do.
PATIENCE = 600
# The same, for who asks for something that is not to answer.
SILENCE = 3


class Machine:
    def __init__(self, address, user="root", **credentials):
        self.address, self.user, self.credentials = address, user, credentials
        self.session = None

    def enter(self):
        """Logs in anew."""
        self.leave()
        session = paramiko.SSHClient()
        session.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        session.connect(self.address, username=self.user, timeout=10, banner_timeout=30, auth_timeout=30,
                        look_for_keys=False, allow_agent=False, **self.credentials)
        self.session = session

    def leave(self):
        if self.session is not None:
            self.session.close()
            self.session = None

    def key(self):
        """The host key it showed."""
        return self.session.get_transport().get_remote_server_key().get_base64()

    def run(self, command):
        """Status and output of a command, as root."""
        _, out, err = self.session.exec_command("sudo sh -c '{}'".format(command), timeout=PATIENCE)
        text = out.read().decode() + err.read().decode()
        return out.channel.recv_exit_status(), text.strip()

    def said(self, command):
        """What a command says that must succeed."""
        status, text = self.run(command)
        assert status == 0, "{}: {} {}".format(command, status, text)
        return text

    def until(self, command):
        """Waits until one can log in and the command succeeds there."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if self.session is None:
                    self.enter()
                status, why = self.run(command)
                if status == 0:
                    return
            except (OSError, EOFError, paramiko.SSHException) as error:
                self.session, why = None, repr(error)
            assert time.monotonic() < deadline, "{}: {}: {}".format(self.address, command, why)
            time.sleep(0.5)

    def is_open(self, port=22):
        """Whether anything answers at a port."""
        try:
            socket.create_connection((self.address, port), timeout=SILENCE).close()
            return True
        except OSError:
            return False

    def refuses(self, user, password):
        """Whether a password opens nothing."""
        try:
            Machine(self.address, user, password=password).enter()
        except paramiko.AuthenticationException:
            return True
        return False
