"""A real SLURM on this machine: munged, slurmctld, two slurmd, and slurmdbd with MariaDB where accounting is asked for.

Everything lies in one folder and listens on ports of its own, so that several clusters can stand side by side. Daemons
run in the foreground as children of the tests and die with them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.slurm.processes import environment_of, name_of, opened, others
from tests.slurm.settings import ACCOUNTING, CONF, DATABASE

NEEDED = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db", "sbatch", "setpriv")
PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
NODES = ("n1", "n2")


def missing() -> str | None:
    """Why no cluster can be started here, None where one can."""
    if os.geteuid() != 0:
        return f"a SLURM cluster is started as root ({PACKAGES})"
    absent = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    return f"{', '.join(absent)} not installed: apt-get install {PACKAGES}" if absent else None


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"])


class Cluster:
    """Two nodes `n1`, `n2` of two CPUs each; partitions `low` (the default) and `high`, which takes nodes from it."""

    def __init__(self, array: int = 6, accounting: bool = True):
        """array: MaxArraySize."""
        # Short: the paths of sockets must fit 108 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="vq", dir="/tmp"))
        self.folder.chmod(0o755)
        self.accounting = accounting
        names = ("controller", "n1", "n2", "database", "sql")
        ports = dict(zip(names, _ports(len(names)), strict=True))
        self._facts: dict[str, str | int] = {
            "folder": str(self.folder),
            "host": socket.gethostname(),
            "array": array,
        }
        self._facts |= ports
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.conf = self.folder / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """What the clients of this cluster have in their environment."""
        return {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Until both nodes are idle. Raises RuntimeError with the logs when they do not become so."""
        for name in ("state", "spool.n1", "spool.n2"):
            (self.folder / name).mkdir()
        (self.folder / "plugstack.conf").touch()
        self.conf.write_text((CONF + (ACCOUNTING if self.accounting else "")).format(**self._facts))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        at = {name: f"--{name}={self.folder}/munge.{name}" for name in ("socket", "key-file", "log-file", "pid-file")}
        at["key-file"] = f"--key-file={key}"
        self._spawn(
            "munged", "munged", "--foreground", "--force", f"--seed-file={self.folder}/munge.seed", *at.values()
        )
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        if self.accounting:
            self._start_database()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self._wait(lambda: self.states() == {"n1": "idle", "n2": "idle"}, "both nodes are idle")

    def stop(self) -> None:
        """End every process of the cluster and of its jobs, and remove its folder."""
        for name in ("slurmctld", *NODES, "slurmdbd", "mariadbd", "munged"):
            self._end(name, signal.SIGKILL if name in ("slurmctld", *NODES) else signal.SIGTERM)
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self.processes(), timeout=10)
        shutil.rmtree(self.folder)

    def processes(self) -> list[psutil.Process]:
        """All processes of this cluster: daemons, slurmstepd, jobs and what they started."""
        return [process for process in others() if self._owns(process)]

    def start_controller(self) -> None:
        """Start slurmctld, also after `kill_controller`."""
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        self._wait(lambda: "is UP" in self.run("scontrol", "ping", check=False), "slurmctld")

    def kill_controller(self) -> None:
        """SIGKILL, when it has stored what it knows: it would give the ids of unknown jobs to others."""
        state = self.folder / "state" / "job_state"
        begin = time.time()
        for job in self.run("squeue", "-h", "-t", "RUNNING", "-o", "%A").split():
            try:
                self.run("scontrol", "update", f"jobid={job}", "TimeLimit=20")
            except RuntimeError as error:
                if "already finished" in str(error):  # since squeue was asked
                    continue
                raise
            self._wait(lambda: state.stat().st_mtime > begin, "the controller stores its jobs")
        self._end("slurmctld", signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Start a slurmd, also after `kill_node`."""
        self._spawn(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))

    def kill_node(self, node: str, jobs: bool = True) -> None:
        """SIGKILL a slurmd; with `jobs`, as when a machine loses power, everything that it had started too."""
        self._end(node, signal.SIGKILL)
        while jobs and (left := self.processes_of(node)):
            # slurmstepd first: it would tell the controller that the job has ended.
            for process in sorted(left, key=lambda process: name_of(process) != "slurmstepd"):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=5)

    def processes_of(self, node: str) -> list[psutil.Process]:
        """What a node's slurmd has started, and what that has started."""
        log = str(self.folder / f"slurmd.{node}.log")
        return [
            process
            for process in others()
            if process.pid not in {daemon.pid for daemon in self._daemons.values()}
            and (environment_of(process).get("SLURMD_NODENAME") == node or log in opened(process))
            and self._owns(process)
        ]

    def _owns(self, process: psutil.Process) -> bool:
        # slurmstepd and slurmscriptd write their title over their environment; their log stays open.
        return environment_of(process).get("SLURM_CONF") == str(self.conf) or any(
            name.startswith(f"{self.folder}/") for name in opened(process)
        )

    def run(self, *command: str, check: bool = True, env: dict[str, str] | None = None) -> str:
        """Output of a client command."""
        done = subprocess.run(
            command, env=self._env() | (env or {}), capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Node → its state, e.g. `idle`, `mixed`, `down*`."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %t", check=False).split("\n")
        return dict(line.split() for line in lines if line)

    def jobs(self) -> dict[str, str]:
        """Job → its state, those included that have ended lately; array elements as `12_3`."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").split("\n")
        return dict(line.split() for line in lines if line)

    def hurry(self) -> None:
        """Jobs that were queued again may start now; SLURM would let them wait for two minutes."""
        for line in self.run("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %r").splitlines():
            job, reason = line.split(maxsplit=1)
            if reason in ("BeginTime", "None"):
                self.run("scontrol", "update", f"jobid={job}", "StartTime=now", check=False)

    def take(self, seconds: float = 1) -> None:
        """A job of the high partition takes both nodes, and ends after some seconds."""
        wish = ("-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null")
        job = self.run("sbatch", "--parsable", *wish, "--wrap", f"sleep {seconds}").strip()
        self._wait(lambda: self.jobs()[job] == "COMPLETED", "the job of higher priority has run")

    def settle(self) -> None:
        """Cancel what is left and wait until both nodes are idle: the next test finds the cluster as new."""
        for node in NODES:
            if self._daemons[node].poll() is not None:
                self.start_node(node)
        self.run("scancel", "--user=root")
        self._wait(lambda: not self.run("squeue", "-h"), "no job is left")
        self._wait(self._are_idle, "both nodes are idle")

    def _are_idle(self) -> bool:
        states = self.states()
        for node, state in states.items():
            if "dr" in state or "down" in state:  # a controller that came back takes nodes out that surprise it
                self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        return states == {"n1": "idle", "n2": "idle"}

    def wait(self, ready: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Until something is true. Raises RuntimeError with the cluster's logs."""
        self._wait(ready, what, seconds)

    def _start_database(self) -> None:
        data = self.folder / "sql"
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db"]
        for attempt in (1, 2):  # seen to fail once on a machine with ten busy processes
            shutil.rmtree(data, ignore_errors=True)
            done = subprocess.run(install, env=self._env(), capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            if attempt == 2:
                raise RuntimeError(f"{' '.join(install)}: {done.stdout}{done.stderr}")
        init = self.folder / "init.sql"
        init.write_text(
            "CREATE DATABASE slurm_acct;\n"  # one statement on each line
            "CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';\n"
            "GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';\n"
        )
        options = (f"--datadir={data}", f"--socket={self.folder}/sql.socket", "--bind-address=127.0.0.1")
        self._spawn(
            "mariadbd", "mariadbd", "--no-defaults", *options, f"--port={self._facts['sql']}", "--user=root",
            f"--init-file={init}", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=16M",
        )  # fmt: skip
        self._wait(lambda: _listens(int(self._facts["sql"])), "mariadbd")
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(DATABASE.format(**self._facts))
        conf.chmod(0o600)
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self._wait(lambda: _listens(int(self._facts["database"])), "slurmdbd")
        accounts = ("cluster vitq", "account lab cluster=vitq", "user root account=lab defaultaccount=lab")
        for what in accounts:
            self.run("sacctmgr", "-i", "add", *what.split())

    def _spawn(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=self._env(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def _end(self, name: str, number: signal.Signals) -> None:
        daemon = self._daemons.get(name)
        if daemon is None:
            return
        if daemon.poll() is None:
            daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _env(self) -> dict[str, str]:
        return os.environ | {"PATH": _PATH} | self.env

    def _wait(self, ready: Callable[[], object], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {seconds:.0f} s for: {what}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self, lines: int = 30) -> str:
        """The end of every daemon's log."""
        files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        ends = [
            f"== {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) for file in files
        ]
        return "\n".join([self.run("squeue", "-t", "all", check=False), *ends])


def _ports(count: int) -> Sequence[int]:
    """Ports that nobody listens on at present."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
