"""A real Slurm of two nodes on one machine, gone with the process that made it.

Everything lives in namespaces of its own (mounts, network, processes, host name): `enter` starts the calling script again
inside of them as process 1, and when that process ends, however it does, the kernel takes the rest away. The machine's
network, mounts and services are never touched.

    controller  10.77.0.1   this process, slurmctld, munged
    node0       10.77.0.10  slurmd; its own network, host name, processes, and its own FUSE mount of the shared folder
    node1       10.77.0.11  likewise
"""
import os
import pathlib
import shutil
import subprocess
import sys
import time

SKIPPED = 77  # what ctest takes for "not run"
INSIDE = "--inside-of-namespaces"
TOOLS = ("slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue", "munged", "mungekey", "bindfs", "ip", "unshare", "nsenter")
STALE = 3  # seconds that a node believes what it knows of names and sizes, and of names that did not exist
GRACE = 60  # seconds between a preemption's warning and its end in the partition `low`; none in `scavenger`
NODES = ("node0", "node1")

CONFIG = """
ClusterName=test
SlurmctldHost=ctl(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
PluginDir={plugins}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=30
KillWait=5
NodeName=node0 NodeAddr=10.77.0.10 CPUs=16 SocketsPerBoard=1 CoresPerSocket=16 RealMemory=2000 State=UNKNOWN
NodeName=node1 NodeAddr=10.77.0.11 CPUs=16 SocketsPerBoard=1 CoresPerSocket=16 RealMemory=2000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes=node0,node1 Default=YES MaxTime=60 PreemptMode=OFF State=UP
PartitionName=low Nodes=node0,node1 MaxTime=60 PriorityTier=1 GraceTime={grace} State=UP
PartitionName=scavenger Nodes=node0,node1 MaxTime=60 PriorityTier=1 GraceTime=0 State=UP
PartitionName=high Nodes=node0,node1 MaxTime=60 PriorityTier=2 PreemptMode=OFF State=UP
"""


def skip(why):
    print(f"SKIPPED: {why}, so nothing was tested on Slurm")
    sys.exit(SKIPPED)


LIBRARIES = "usr/lib/x86_64-linux-gnu"


def use_unpacked_tools():
    """Adds to PATH and LD_LIBRARY_PATH what `deploy/setup.sh --slurm` unpacked, after what is installed."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    root = cache / "palimpsest/slurm"
    if not root.is_dir() or find("slurmctld"):
        return
    for name, places in (("PATH", ("usr/bin", "usr/sbin", "bin", "sbin")),
                         ("LD_LIBRARY_PATH", (LIBRARIES, f"{LIBRARIES}/slurm-wlm", "lib/x86_64-linux-gnu"))):
        before = [os.environ[name]] if os.environ.get(name) else []
        os.environ[name] = os.pathsep.join([*before, *(str(root / place) for place in places)])


def find(tool):
    """Debian names it slurmd-wlm; slurmd is a link that only the installed package has."""
    return shutil.which(tool) or shutil.which(tool + "-wlm")


def plugins():
    """Slurm's, of the installation that slurmctld belongs to."""
    return pathlib.Path(find("slurmctld")).resolve().parents[2] / LIBRARIES / "slurm-wlm"


def enter():
    """Returns inside of the namespaces only. Exits with SKIPPED where they, or Slurm, are not to be had."""
    if INSIDE in sys.argv:
        sys.argv.remove(INSIDE)
        return
    if os.geteuid() != 0:
        skip("namespaces with their own network need root")
    use_unpacked_tools()
    missing = [tool for tool in TOOLS if not find(tool)]
    if missing:
        skip(f"there is no {', '.join(missing)} (`deploy/setup.sh --slurm` brings Slurm)")
    own = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL", "--mount-proc"]
    probe = subprocess.run([*own, "sh", "-c", "mount -t tmpfs none /run && ip link add br0 type bridge && test -c /dev/fuse"],
                           capture_output=True, text=True, timeout=60)
    if probe.returncode != 0:
        skip(f"this machine allows no namespaces, no bridge or no FUSE ({probe.stderr.strip()})")
    os.execvp(own[0], [*own, sys.executable, *sys.argv, INSIDE])  # its end, even by SIGKILL, is the end of all


def sh(*command, **options):
    """Runs to its end; its output. An error says what it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def wait_for(what, look, seconds=60):
    """The first true thing that `look` gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"{what}: not within {seconds} s")


class Cluster:
    """`folder`: empty, of ours. `shared`: what every node mounts over itself."""

    def __init__(self, folder, shared):
        self.folder, self.shared = pathlib.Path(folder), pathlib.Path(shared)
        self.nodes = {}
        self.running = []
        sh("mount", "-t", "tmpfs", "none", "/run")
        sh("hostname", "ctl")
        hosts = self.folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n10.77.0.1 ctl\n10.77.0.10 node0\n10.77.0.11 node1\n")
        sh("mount", "--bind", hosts, "/etc/hosts")
        self.connect()
        self.configure()
        for name in ("munge", "state", "spool.node0", "spool.node1"):
            (self.folder / name).mkdir(mode=0o755)
        munge = self.folder / "munge"
        sh(find("mungekey"), "--create", "--bits=1024", f"--keyfile={munge}/key")
        self.background("munged", find("munged"), "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket",
                        f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed")
        wait_for("munge", (munge / "socket").exists)
        self.background("slurmctld", find("slurmctld"), "-D", "-c")
        for name in NODES:
            self.start(name)
        wait_for("two idle nodes", lambda: self.states() == ["idle", "idle"])

    def connect(self):
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", "br0", "type", "bridge")
        sh("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
        sh("ip", "link", "set", "br0", "up")
        for i, name in enumerate(NODES):
            sh("ip", "netns", "add", name)
            sh("ip", "link", "add", f"veth{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
            sh("ip", "link", "set", f"veth{i}", "master", "br0", "up")
            sh("ip", "-n", name, "link", "set", "lo", "up")
            sh("ip", "-n", name, "addr", "add", f"10.77.0.1{i}/24", "dev", "eth0")
            sh("ip", "-n", name, "link", "set", "eth0", "up")

    def configure(self):
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        text = CONFIG.format(folder=self.folder, plugins=plugins(), grace=GRACE)
        (self.folder / "slurm.conf").write_text(text)

    def background(self, name, *command):
        with open(self.folder / f"{name}.out", "ab") as log:
            process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True)  # Ctrl-C is for the test
        self.running.append(process)
        return process

    def stop(self):
        """Nobody writes into the folder any more."""
        for process in reversed(self.running):
            process.kill()
            process.wait()

    def start(self, name):
        """slurmd is process 1 of its node: with it dies all that ever ran there."""
        stale = f"attr_timeout={STALE},entry_timeout={STALE},negative_timeout={STALE}"
        script = (f"hostname {name} && ip link show lo > /dev/null && bindfs -o nonempty,{stale} {self.shared} {self.shared} && "
                  f"exec {find('slurmd')} -D -d {find('slurmstepd')}")
        self.nodes[name] = self.background(f"slurmd.{name}", "nsenter", f"--net=/run/netns/{name}", "unshare", "--uts", "--mount", "--pid",
                                           "--fork", "--kill-child=KILL", "--mount-proc", "bash", "-c", script)

    def kill(self, name):
        """As if its power failed, noticed by Slurm at once rather than after SlurmdTimeout."""
        self.nodes[name].kill()
        self.nodes[name].wait()
        self.scontrol("update", f"nodename={name}", "state=down", "reason=killed")

    def revive(self, name):
        """Slurm takes a node back when its slurmd registers (ReturnToService=2). Its spool folder was in memory: a job's files of before
        would stand in the way of the same job ("could not create a batch directory or file", and the job is held)."""
        for left in (self.folder / f"spool.{name}").glob("job*"):
            shutil.rmtree(left)
        self.start(name)
        wait_for(f"the return of {name}", lambda: not sh("sinfo", "-h", "-n", name, "-o", "%T").startswith("down"))

    def run_at(self, name, *command):
        """Among the processes of a node, by their numbers there."""
        unshare = self.nodes[name].pid
        first = pathlib.Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0]
        return sh("nsenter", f"--target={first}", "--pid", "--mount", *command)

    def scontrol(self, *words):
        return sh("scontrol", *words)

    def states(self):
        return [state.strip() for state in sh("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split()]

    def job(self, job_id):
        """The fields of `scontrol show job`."""
        return dict(field.split("=", 1) for field in self.scontrol("-o", "show", "job", job_id).split() if "=" in field)
