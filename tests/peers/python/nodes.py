"""Nodes of a cloud without machines: an SSH server on each of its public addresses.

Each keeps the files it is given in a folder of its own and writes down the commands it is asked to run.
"""

import os
import socket
import threading

import paramiko

# The cloud's public network is set to this one: loopback answers on all of it.
PUBLIC = "127.66.0."
HOME = "root"


class Nodes:
    """SSH on `count` public addresses from the second on, at one port."""

    def __init__(self, folder, password, count=16):
        self.password = password
        self.key = paramiko.RSAKey.generate(2048)
        self.nodes = {}
        self.port = 0
        for last in range(2, 2 + count):
            address = PUBLIC + str(last)
            listener = socket.socket()
            listener.bind((address, self.port))
            listener.listen()
            self.port = listener.getsockname()[1]
            self.nodes[address] = Node(os.path.join(folder, address))
            threading.Thread(target=self.accept, args=(listener, address), daemon=True).start()

    def accept(self, listener, address):
        while True:
            stream, _ = listener.accept()
            transport = paramiko.Transport(stream)
            transport.add_server_key(self.key)
            node = self.nodes[address]
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files, node)
            try:
                transport.start_server(server=Login(node, self.password))
            except (paramiko.SSHException, EOFError):
                # Whoever called has gone; it will call again.
                transport.close()

    def touched(self):
        """Addresses somebody logged in at."""
        return {address for address, node in self.nodes.items() if node.logins}


class Node:
    def __init__(self, folder):
        self.folder, self.logins, self.commands = folder, [], []
        os.makedirs(os.path.join(folder, HOME))

    def at(self, path):
        """Where a path of the node is; relative ones begin in root's home."""
        inside = os.path.normpath(os.path.join("/" + HOME, path))
        return os.path.join(self.folder, inside.lstrip("/"))

    def read(self, path):
        with open(self.at(path)) as file:
            return file.read()


class Login(paramiko.ServerInterface):
    def __init__(self, node, password):
        self.node, self.password = node, password

    def get_allowed_auths(self, username):
        return "password"

    def check_auth_password(self, username, password):
        if (username, password) != ("root", self.password):
            return paramiko.AUTH_FAILED
        self.node.logins.append(username)
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_pty_request(self, *_):
        return True

    def check_channel_exec_request(self, channel, command):
        self.node.commands.append(command.decode())

        def end():
            channel.send_exit_status(0)
            channel.close()

        # After the answer to this request, which is sent once this returns.
        threading.Timer(0.05, end).start()
        return True


class Handle(paramiko.SFTPHandle):
    def stat(self):
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))

    def chattr(self, attributes):
        if attributes.st_mode is not None:
            os.fchmod(self.readfile.fileno(), attributes.st_mode & 0o7777)
        return paramiko.SFTP_OK


class Files(paramiko.SFTPServerInterface):
    def __init__(self, server, node, *_):
        super().__init__(server)
        self.node = node

    def canonicalize(self, path):
        return os.path.normpath(os.path.join("/" + HOME, path))

    def attempt(self, call):
        try:
            return call()
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def list_folder(self, path):
        def look():
            entries = os.scandir(self.node.at(path))
            return [paramiko.SFTPAttributes.from_stat(entry.stat(), entry.name) for entry in entries]

        return self.attempt(look)

    def stat(self, path):
        return self.attempt(lambda: paramiko.SFTPAttributes.from_stat(os.stat(self.node.at(path))))

    lstat = stat

    def mkdir(self, path, _attributes):
        return self.attempt(lambda: os.mkdir(self.node.at(path)) or paramiko.SFTP_OK)

    def remove(self, path):
        return self.attempt(lambda: os.remove(self.node.at(path)) or paramiko.SFTP_OK)

    def chattr(self, path, attributes):
        if attributes.st_mode is None:
            return paramiko.SFTP_OK
        return self.attempt(lambda: os.chmod(self.node.at(path), attributes.st_mode & 0o7777) or paramiko.SFTP_OK)

    def open(self, path, flags, _attributes):
        def make():
            # Opened for reading too: the file's attributes are asked for through the same handle.
            writes = flags & (os.O_WRONLY | os.O_RDWR)
            wanted = flags & ~os.O_WRONLY | os.O_RDWR if writes else flags
            descriptor = os.open(self.node.at(path), wanted, 0o644)
            handle = Handle(wanted)
            mode = "a+b" if wanted & os.O_APPEND else "r+b" if writes else "rb"
            handle.readfile = handle.writefile = os.fdopen(descriptor, mode)
            return handle

        return self.attempt(make)
