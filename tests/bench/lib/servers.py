# SPDX-License-Identifier: MIT
"""The programs that compare measures: private, in one directory, on Unix sockets, gone at the end.

Every process is a child of this one and gets a signal from the kernel if this one dies.  PostgreSQL,
PgBouncer and Pgpool-II refuse to run as root; they run as user postgres, or nobody, then.
"""

import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time

START_SECONDS = 60
MAX_CONNECTIONS = 300


class Failure(Exception):
    pass


def plain_user():
    """Name of the user for programs that refuse root; None if we are not root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            pass
    raise Failure("neither a user postgres nor a user nobody exists")


def postgres_programs():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin"),
                   key=lambda p: int(re.search(r"(\d+)/bin$", p).group(1)))
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    if initdb is None:
        raise Failure("no PostgreSQL server is installed")
    return os.path.dirname(initdb)


def _listens(path, kind):
    with socket.socket(socket.AF_UNIX, kind) as s:
        try:
            s.connect(path)
            return True
        except OSError:
            return False


class Process:
    """A server that is ready when its socket takes connections."""

    def __init__(self, argv, sock, log, plain=False, kind=socket.SOCK_STREAM, stop=signal.SIGTERM,
                 cwd="/", env=None):
        self.log, self.stop_signal = log, stop
        prefix = ["setpriv", "--pdeathsig", signal.Signals(stop).name[3:]]
        user = plain_user() if plain else None
        if user:
            group = str(pwd.getpwnam(user).pw_gid)
            prefix += ["--reuid", user, "--regid", group, "--clear-groups"]
        with open(log, "ab") as f:
            self.popen = subprocess.Popen(prefix + argv, stdin=subprocess.DEVNULL, stdout=f,
                                          stderr=f, cwd=cwd, env={**os.environ, **(env or {})})
        end = time.monotonic() + START_SECONDS
        while not _listens(sock, kind):
            if self.popen.poll() is not None or time.monotonic() > end:
                self.stop()
                raise Failure(f"{argv[0]} does not start:\n{self.tail()}")
            time.sleep(0.01)

    def tail(self):
        with open(self.log, "r", errors="replace") as f:
            return "".join(f.readlines()[-20:])

    def stop(self):
        if self.popen.poll() is None:
            self.popen.send_signal(self.stop_signal)
            try:
                self.popen.wait(30)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


def quietly(argv, plain=False):
    """Run to the end; its output is shown only if it fails."""
    user = plain_user() if plain else None
    if user:
        group = str(pwd.getpwnam(user).pw_gid)
        argv = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"] + argv
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, cwd="/", text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(argv)} failed:\n{done.stdout}")
    return done.stdout


def _own_directory(path):
    os.mkdir(path, 0o755)
    user = plain_user()
    if user:
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
    return path


class Postgres:
    """One cluster for all; fsync and everything else that costs as a fresh installation has it."""

    settings = {"shared_buffers": "256MB", "max_connections": str(MAX_CONNECTIONS)}

    def __init__(self, directory):
        self.dir = _own_directory(os.path.join(directory, "pg"))
        self.url = f"postgresql:///postgres?host={self.dir}&user=postgres"
        programs = postgres_programs()
        quietly([f"{programs}/initdb", "-D", f"{self.dir}/data", "-A", "trust", "-U", "postgres",
                 "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"], plain=True)
        argv = [f"{programs}/postgres", "-D", f"{self.dir}/data", "-k", self.dir,
                "-c", "listen_addresses="]
        for name, value in self.settings.items():
            argv += ["-c", f"{name}={value}"]
        self.process = Process(argv, f"{self.dir}/.s.PGSQL.5432", f"{directory}/postgres.log",
                               plain=True, stop=signal.SIGINT)
        self.version = quietly([f"{programs}/postgres", "--version"]).strip()

    def wait_ready(self):
        """The socket listens before the server is ready to serve."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                quietly([f"{postgres_programs()}/pg_isready", "-q", "-h", self.dir, "-U", "postgres"])
                return
            except Failure:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def stop(self):
        self.process.stop()


class PgBouncer:
    PORT = 6432

    def __init__(self, directory, pg, pool):
        self.dir = os.path.join(directory, "pgbouncer")
        if not os.path.isdir(self.dir):
            _own_directory(self.dir)
        ini = f"{self.dir}/pgbouncer.ini"
        with open(ini, "w") as f:
            f.write(self.configuration(pg.dir, self.dir, pool))
        self.process = Process([find("pgbouncer"), "-q", ini], f"{self.dir}/.s.PGSQL.{self.PORT}",
                               f"{directory}/pgbouncer.log", plain=True, stop=signal.SIGINT)
        self.url = f"postgresql:///postgres?host={self.dir}&port={self.PORT}&user=postgres"

    @staticmethod
    def configuration(server, directory, pool):
        return f"""[databases]
postgres = host={server} port=5432 user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 1000
unix_socket_dir = {directory}
listen_port = {PgBouncer.PORT}
auth_type = any
log_connections = 0
log_disconnections = 0
"""

    def stop(self):
        self.process.stop()


class Pgpool:
    PORT = 9999

    def __init__(self, directory, pg, workers):
        self.dir = os.path.join(directory, "pgpool")
        if not os.path.isdir(self.dir):
            _own_directory(self.dir)
        for name, text in (("pgpool.conf", self.configuration(pg.dir, workers)), ("pcp.conf", ""),
                           ("pool_hba.conf", "")):
            with open(f"{self.dir}/{name}", "w") as f:
                f.write(text)
        self.process = Process(
            [find("pgpool"), "-n", "-f", f"{self.dir}/pgpool.conf", "-F", f"{self.dir}/pcp.conf",
             "-a", f"{self.dir}/pool_hba.conf"],
            f"{self.dir}/.s.PGSQL.{self.PORT}", f"{directory}/pgpool.log", plain=True,
            stop=signal.SIGINT)
        self.url = f"postgresql:///postgres?host={self.dir}&port={self.PORT}&user=postgres"

    def configuration(self, server, workers):
        version = re.search(r"(\d+)\.(\d+)", quietly([find("pgpool"), "--version"]))
        old = (int(version.group(1)), int(version.group(2))) < (4, 4)
        return f"""backend_clustering_mode = 'raw'
listen_addresses = ''
pcp_listen_addresses = ''
port = {self.PORT}
{"socket_dir" if old else "unix_socket_directories"} = '{self.dir}'
pcp_socket_dir = '{self.dir}'
pid_file_name = '{self.dir}/pid'
logdir = '{self.dir}'
work_dir = '{self.dir}'
backend_hostname0 = '{server}'
backend_port0 = 5432
num_init_children = {workers + 2}
max_pool = 1
connection_cache = on
load_balance_mode = off
"""

    def stop(self):
        self.process.stop()


class Broker:
    def __init__(self, program, directory, url, settings):
        self.socket = f"{directory}/broker.sock"
        self.argv = [program, "serve", "-d", url, "-s", f"broker.socket={self.socket}"]
        for s in settings:
            self.argv += ["-s", s]
        env = {"BROKER_DUMPABLE": "1"}  # its memory is to be looked at, also without being root
        self.process = Process(self.argv, self.socket, f"{directory}/broker.log",
                               kind=socket.SOCK_SEQPACKET, cwd=directory, env=env)

    def stop(self):
        self.process.stop()


def find(program):
    for directory in os.environ.get("PATH", "").split(":") + ["/usr/sbin", "/usr/local/sbin"]:
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK):
            return path
    raise Failure(f"{program} is not installed")
