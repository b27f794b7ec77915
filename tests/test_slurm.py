"""A Slurm of one node, started by hand, runs a slice of a profile: the same tables as here.

Skipped where Slurm's daemons (Debian: munge, slurm-wlm) or Snakemake's plugin (`pip install -e
'.[cluster]'`) are absent, or where the user may not start them.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from kdlib.compare import compare
from kdlib.plan import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from chaos import TIMED

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = os.environ["PATH"] + os.pathsep + "/usr/sbin"
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
ETC = Path("/etc/slurm/slurm.conf")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}"),
    pytest.mark.skipif(
        not importlib.util.find_spec("snakemake_executor_plugin_slurm"),
        reason="no snakemake-executor-plugin-slurm: pip install -e '.[cluster]'",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons are started as root"),
    # Steps inside a job do not inherit SLURM_CONF, so the configuration must lie where it does.
    pytest.mark.skipif(ETC.exists(), reason=f"{ETC} is there: a Slurm of this machine's own"),
]
CONF = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
SLICE = {
    "epochs": 2,
    "teacher_losses": ["ce"],
    "student_losses": ["ce", "bs"],
    "kd_methods": ["none", "kd"],
    "mixup": [False],
}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def slurm(tmp_path):
    """The environment in which sbatch finds a running cluster of this one machine."""
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)  # munged wants its socket where everybody may look
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    text = CONF.format(
        host=socket.gethostname().split(".")[0], folder=folder, ports=free_ports(2),
        cores=os.cpu_count(), memory=memory,
    )  # fmt: skip
    ETC.write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    environment = os.environ | {"PATH": PATH}
    files = {name: folder / f"munge.{name}" for name in ("socket", "key", "pid", "log", "seed")}
    munged = ["munged", "--foreground", "--force", f"--socket={files['socket']}"]
    munged += [f"--{name}-file={files[name]}" for name in ("key", "pid", "log", "seed")]
    daemons = []
    try:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with open(folder / f"{command[0]}.out", "w") as log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        hello = subprocess.run(
            ["srun", "-t1", "echo", "hello"], env=environment, capture_output=True, timeout=60
        )
        assert hello.stdout == b"hello\n", hello.stderr
        yield environment
    finally:
        ETC.unlink()
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


@pytest.fixture
def settings(tmp_path):
    """A copy of the profile, as docs/cluster.md has it, adapted to a cluster without accounting."""
    own = yaml.safe_load((ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
    own |= {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 5}
    own |= {"latency-wait": 10, "slurm-no-account": True}
    own["default-resources"] |= {"runtime": 10, "mem_mb": 1000}
    folder = tmp_path / "my_cluster"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(own))
    return folder


def run(out, environment, *more):
    words = [f"--set={key}={yaml.safe_dump(value).strip()}" for key, value in SLICE.items()]
    command = [sys.executable, "-m", "kdlib", "run", "digits", "--out", str(out), *words, *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    log = out / ".batch" / "snakemake.log"
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
    return done.stdout


def test_the_same_tables_through_slurm_as_here(slurm, settings, tmp_path):
    here, there = (tmp_path / place for place in ("here", "there"))
    run(here, os.environ)
    told = run(there, slurm, "--workflow-profile", str(settings))
    assert "left: " in told
    queue = ["squeue", "--all", "--states=all", "--noheader", "--format=%T"]
    states = subprocess.run(queue, env=slurm, capture_output=True, text=True).stdout.split()
    assert states.count("COMPLETED") >= 4  # srun's hello and the jobs
    assert compare(here, there).equal
    tables = sorted(path.relative_to(here) for path in here.rglob("*.csv"))
    assert tables
    for table in tables:
        if table.name not in TIMED:
            assert (here / table).read_bytes() == (there / table).read_bytes(), table
