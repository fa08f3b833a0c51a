"""scripts/audit-host: what it says of hosts that are folders here, each safe but for one thing."""
import json
import os
import subprocess

import pytest

from harness import kernels

AUDIT = kernels.REPOSITORY / "scripts" / "audit-host"

SAFE = {
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/sda1 quiet",
    "proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu sse svm",
    "proc/swaps": "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority",
    "proc/sys/fs/suid_dumpable": "0",
    "proc/sys/kernel/dmesg_restrict": "1",
    "proc/sys/kernel/kptr_restrict": "1",
    "proc/sys/kernel/osrelease": "6.1.0-30-amd64",
    "proc/sys/kernel/perf_event_paranoid": "3",
    "proc/sys/kernel/randomize_va_space": "2",
    "proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno trace log allow",
    "proc/sys/kernel/unprivileged_bpf_disabled": "2",
    "proc/sys/user/max_user_namespaces": "0",
    "proc/sys/vm/mmap_min_addr": "65536",
    "proc/sys/vm/nr_hugepages": "0",
    "proc/sys/vm/overcommit_memory": "0",
    "proc/sys/vm/panic_on_oom": "0",
    "proc/sys/vm/unprivileged_userfaultfd": "0",
    "sys/devices/system/cpu/smt/active": "0",
    "sys/devices/system/cpu/vulnerabilities/l1tf": "Not affected",
    "sys/devices/system/cpu/vulnerabilities/spectre_v2": "Mitigation: Retpolines; IBPB: conditional; STIBP: disabled; RSB filling",
    "sys/devices/system/edac/mc/mc0/ce_count": "0",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma",
    "sys/kernel/mm/ksm/run": "0",
    "sys/kernel/security/lsm": "lockdown,capability,landlock,yama,apparmor",
    "sys/module/kvm/parameters/enable_vmware_backdoor": "N",
    "sys/module/kvm/parameters/ignore_msrs": "N",
    "sys/module/kvm/parameters/min_timer_period_us": "200",
    "sys/module/kvm/parameters/nx_huge_pages": "N",
    "sys/module/kvm_amd/parameters/nested": "0",
    "sys/module/kvm_amd/parameters/npt": "Y",
}

# check, state, what is different (None: the file is not there)
CASES = [
    ("smt", "unsafe", {"sys/devices/system/cpu/smt/active": "1"}),
    ("smt", "unknown", {"sys/devices/system/cpu/smt/active": None}),
    ("cpu-spectre-v2", "unsafe", {"sys/devices/system/cpu/vulnerabilities/spectre_v2": "Vulnerable"}),
    ("cpu-mds", "unsafe", {"sys/devices/system/cpu/vulnerabilities/mds": "Mitigation: Clear CPU buffers; SMT vulnerable"}),
    ("cpu-mds", "caution", {"sys/devices/system/cpu/vulnerabilities/mds": "Mitigation: Clear CPU buffers; SMT Host state unknown"}),
    ("cpu-itlb-multihit", "fine", {"sys/devices/system/cpu/vulnerabilities/itlb_multihit": "KVM: Mitigation: Split huge pages"}),
    ("cpu-vulnerabilities", "unknown", {"sys/devices/system/cpu/vulnerabilities/l1tf": None,
                                        "sys/devices/system/cpu/vulnerabilities/spectre_v2": None}),
    ("kernel-command-line", "unsafe", {"proc/cmdline": "root=/dev/sda1 mitigations=off"}),
    ("kernel-command-line", "unsafe", {"proc/cmdline": "nopti quiet"}),
    ("kernel-command-line", "fine", {"proc/cmdline": "mitigations=auto,nosmt"}),
    ("ksm", "unsafe", {"sys/kernel/mm/ksm/run": "1"}),
    ("ksm", "fine", {"sys/kernel/mm/ksm/run": "2"}),
    ("ksm", "fine", {"sys/kernel/mm/ksm/run": None}),
    ("swap", "unsafe", {"proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 8 0 -2"}),
    ("nested", "unsafe", {"sys/module/kvm_amd/parameters/nested": "1"}),
    ("nested", "unsafe", {"sys/module/kvm_intel/parameters/nested": "Y"}),
    ("hardware-paging", "caution", {"sys/module/kvm_amd/parameters/npt": "N"}),
    ("hardware-paging", "caution", {"sys/module/kvm_intel/parameters/unrestricted_guest": "N"}),
    ("l1d-flush", "unsafe", {"sys/module/kvm_intel/parameters/vmentry_l1d_flush": "never",
                             "sys/devices/system/cpu/vulnerabilities/l1tf": "Mitigation: PTE Inversion"}),
    ("l1d-flush", "fine", {"sys/module/kvm_intel/parameters/vmentry_l1d_flush": "never"}),
    ("nx-huge-pages", "unsafe", {"sys/module/kvm/parameters/nx_huge_pages": "N",
                                 "sys/devices/system/cpu/vulnerabilities/itlb_multihit": "KVM: Vulnerable"}),
    ("kvm-switches", "unsafe", {"sys/module/kvm/parameters/enable_vmware_backdoor": "Y"}),
    ("kvm-switches", "unsafe", {"sys/module/kvm/parameters/min_timer_period_us": "0"}),
    ("kvm-switches", "caution", {"sys/module/kvm/parameters/ignore_msrs": "Y"}),
    ("kernel-version", "unsafe", {"proc/sys/kernel/osrelease": "5.10.0-32-amd64"}),
    ("kernel-version", "unsafe", {"proc/sys/kernel/osrelease": "4.19.0"}),
    ("kernel-version", "unknown", {"proc/sys/kernel/osrelease": None}),
    ("outer-host", "caution", {"proc/cpuinfo": "flags : fpu hypervisor svm"}),
    ("user-namespaces", "caution", {"proc/sys/user/max_user_namespaces": "15000"}),
    ("user-namespaces", "fine", {"proc/sys/user/max_user_namespaces": "15000", "proc/sys/kernel/unprivileged_userns_clone": "0"}),
    ("bpf", "unsafe", {"proc/sys/kernel/unprivileged_bpf_disabled": "0"}),
    ("userfaultfd", "unsafe", {"proc/sys/vm/unprivileged_userfaultfd": "1"}),
    ("address-leaks", "caution", {"proc/sys/kernel/kptr_restrict": "0"}),
    ("address-leaks", "caution", {"proc/sys/kernel/perf_event_paranoid": "1"}),
    ("address-randomization", "unsafe", {"proc/sys/kernel/randomize_va_space": "0"}),
    ("address-randomization", "unsafe", {"proc/sys/vm/mmap_min_addr": "0"}),
    ("core-dumps", "unsafe", {"proc/sys/fs/suid_dumpable": "1"}),
    ("cgroups", "unsafe", {"sys/fs/cgroup/cgroup.controllers": None}),
    ("cgroups", "caution", {"sys/fs/cgroup/cgroup.controllers": None, "sys/fs/cgroup/memory/tasks": ""}),
    ("cgroups", "unsafe", {"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids"}),
    ("out-of-memory", "unsafe", {"proc/sys/vm/panic_on_oom": "1"}),
    ("out-of-memory", "caution", {"proc/sys/vm/overcommit_memory": "1"}),
    ("huge-pages", "caution", {"proc/sys/vm/nr_hugepages": "64", "sys/fs/cgroup/cgroup.controllers": "cpu io memory pids"}),
    ("seccomp", "unsafe", {"proc/sys/kernel/seccomp/actions_avail": None}),
    ("landlock", "caution", {"sys/kernel/security/lsm": "capability,yama"}),
    ("memory-errors", "caution", {"sys/devices/system/edac/mc/mc0/ce_count": None}),
]


class MadeUp:
    def __init__(self, folder):
        self.folder = folder
        for name, text in SAFE.items():
            self.write(name, text)
        (folder / "dev").mkdir()
        (folder / "dev" / "kvm").touch(mode=0o660)
        os.chmod(folder / "dev" / "kvm", 0o660)

    def write(self, name, text):
        path = self.folder / name
        if text is None:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def audit(self, *words):
        return subprocess.run([AUDIT, "--root", self.folder, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              check=False)

    def checks(self, *words):
        done = self.audit("--json", *words)
        told = json.loads(done.stdout)
        return done.returncode, told["unsafe"], {check["name"]: check for check in told["checks"]}


@pytest.fixture
def made_up(tmp_path):
    return MadeUp(tmp_path)


def test_a_safe_host(made_up):
    status, unsafe, checks = made_up.checks()
    assert status == 0 and unsafe == []
    assert {check["state"] for check in checks.values()} == {"fine"}, checks
    done = made_up.audit()
    assert done.returncode == 0
    assert done.stdout == f"0 unsafe, 0 caution, 0 unknown, {len(checks)} fine\n"


@pytest.mark.parametrize("name, state, changes", CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_one_thing_is_different(made_up, name, state, changes):
    for path, text in changes.items():
        made_up.write(path, text)
    status, unsafe, checks = made_up.checks()
    assert checks[name]["state"] == state, checks[name]
    assert (name in unsafe) == (state == "unsafe") and status == (1 if unsafe else 0)
    if state in ("unsafe", "caution"):
        assert checks[name]["seen"] and checks[name]["advice"]
        shown = made_up.audit().stdout
        assert f"{state.upper():8}{name}: {checks[name]['seen']}" in shown and f"-> {checks[name]['advice']}" in shown


@pytest.mark.parametrize("mode, state", [(0o666, "unsafe"), (0o664, "unsafe"), (0o660, "fine"), (0o600, "fine")])
def test_who_may_open_kvm(made_up, mode, state):
    os.chmod(made_up.folder / "dev" / "kvm", mode)
    assert made_up.checks()[2]["dev-kvm"]["state"] == state


def test_no_kvm(made_up):
    (made_up.folder / "dev" / "kvm").unlink()
    status, _, checks = made_up.checks()
    assert checks["dev-kvm"]["state"] == "unknown" and status == 0


def test_what_is_accepted_is_told_and_does_not_count(made_up):
    made_up.write("sys/kernel/mm/ksm/run", "1")
    made_up.write("sys/devices/system/cpu/smt/active", "1")
    assert made_up.checks("--accept", "ksm")[:2] == (1, ["smt"])
    done = made_up.audit("--accept", "ksm", "--accept", "smt")
    assert done.returncode == 0 and "UNSAFE  ksm (accepted): " in done.stdout


def test_all_shows_what_is_fine(made_up):
    assert "FINE    nested: no nested virtualization" in made_up.audit("--all").stdout


@pytest.mark.parametrize("words, message", [(["--accept", "nothing"], "there is no such check here: there are smt, "),
                                            (["--root", "/nowhere"], "--root /nowhere: there is no such folder")])
def test_a_wrong_command_line(made_up, words, message):
    done = made_up.audit(*words)
    assert done.returncode == 2 and message in done.stderr


def test_nothing_at_all_is_no_crash(tmp_path):
    done = subprocess.run([AUDIT, "--root", tmp_path, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert set(json.loads(done.stdout)["unsafe"]) == {"cgroups", "seccomp"}


def test_this_host():
    """Whatever it is: an answer, and the status that belongs to it."""
    done = subprocess.run([AUDIT, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == (1 if json.loads(done.stdout)["unsafe"] else 0)
