"""A real Redis on a free port, whose acknowledged writes survive SIGKILL."""

import socket
import subprocess
import time

import redis


class RedisServer:
    """redis-server with its files in a folder."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self._folder, self._process = f"redis://127.0.0.1:{self.port}/0", folder, None

    def start(self):
        """Returns when it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder}
        options |= {"appendonly": "yes", "appendfsync": "always", "save": ""}
        command = ["redis-server"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert self._process.poll() is None and time.monotonic() < end
                time.sleep(0.02)

    def kill(self):
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def flush(self):
        """Removes every key."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def close(self):
        """Ends it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
