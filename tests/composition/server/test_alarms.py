"""Parsing the raylet's log of memory shortages, and the message for the user."""

from pathlib import Path

import pytest

from composition.server.alarms import MemoryAlarm, Shortage, Victim, parse_shortages

# The log of Ray 2.60, with shortened ids and object store statistics.
HEAD = """\
[2026-11-30 11:42:12,124 I 27524 27524] (raylet) node_manager.cc:3199: Killing 3 worker(s), kill details: Memory on \
the node (IP: 127.0.0.1, ID: 36dd7789) was 22.36GB used / 23.54GB limit (0.950053)
OOM kill reason: Memory usage 24009130265B exceeded threshold of 24009078848B (95.0% of 25276510208B limit)
Object store memory usage: [- objects spillable: 3
- objects in use: 4

Eviction Stats:
(global lru) num objects: 5]
Ray killed 3 worker(s) based on the killing policy
Considered workers: [
"""
KILLED = """\
Selected to kill: (Actor(cb9941ac): job ID=01000000, lease ID=00000000, task name=SERVE_CONTROLLER_ACTOR:\
ServeController.__init__, required resources={node:__internal_head__: 0.001}, pid=27730, actual memory used=0.08GB, \
worker ID=89be482f)
Selected to kill: (Actor(da3d9ed7): job ID=01000000, lease ID=03000000, task name=SERVE_REPLICA::reelgraph#wan#shp4j6:\
ServeReplica:reelgraph:wan.__init__, required resources={CPU: 0.02}, pid=27987, actual memory used=2.81GB, worker \
ID=ed70d326)
Selected to kill: (Task: job ID=01000000, lease ID=08000000, task name=SERVE_PROXY_ACTOR-36dd7789:ProxyActor.__init__, \
required resources={}, pid=28296, actual memory used=0.06GB, worker ID=b8e192a1)
Not selected: (Actor(a285a46f): job ID=01000000, lease ID=05000000, task name=SERVE_REPLICA::reelgraph#flux#w1f0glqv:\
ServeReplica:reelgraph:flux.__init__, required resources={CPU: 0.02}, pid=28183, actual memory used=0.09GB, worker \
ID=1fde4cd2)
"""
TAIL = """\
]
Total non-selected idle workers: 1
Total non-selected idle workers USS bytes: 0.04GB
To see more information about memory usage on this node, use `ray logs raylet.out -ip 127.0.0.1`
Top 10 memory users: PID	MEM(GB)	COMMAND
27987	2.81	ray::ServeReplica:reelgraph:wan.generate
[2026-11-30 11:42:12,130 I 27524 27524] (raylet) worker_pool.cc:1: all is well
"""
VICTIMS = (Victim("wan", 2.81), Victim("Serve's controller", 0.08), Victim("Serve's proxy", 0.06))


def test_who_was_ended() -> None:
    log = f"all is well\n{HEAD}{KILLED}{TAIL}"
    assert parse_shortages(log) == ([Shortage(22.36, 23.54, VICTIMS)], "")
    assert len(parse_shortages(log * 2)[0]) == 2
    assert parse_shortages("all is well\n") == ([], "")


def test_what_is_told() -> None:
    told = str(Shortage(22.36, 23.54, VICTIMS[:2]))
    ended = "Ray killed wan (2.81 GB), Serve's controller (0.08 GB)"
    assert told.startswith(f"out of memory: 22.36 of 23.54 GB were in use, and {ended}. They are restarted")
    assert told.endswith("serve fewer models (--only) or add memory")


@pytest.mark.parametrize("cut", range(0, len(HEAD + KILLED + TAIL), 97))
def test_a_log_that_is_being_written(tmp_path: Path, cut: int) -> None:
    log = f"{HEAD}{KILLED}{TAIL}".encode()
    alarm = MemoryAlarm(tmp_path)
    assert alarm.read_shortages() == []
    found: list[Shortage] = []
    for end in (cut, len(log)):
        (tmp_path / "raylet.out").write_bytes(log[:end])
        found += alarm.read_shortages()
    assert found == [Shortage(22.36, 23.54, VICTIMS)]
    assert alarm.read_shortages() == []


def test_a_replica_that_ends_again_and_again_is_told_once_a_minute(tmp_path: Path) -> None:
    alarm = MemoryAlarm(tmp_path, iter((0.0, 30.0, 59.0, 61.0)).__next__)
    told: list[int] = []
    with (tmp_path / "raylet.out").open("w") as file:
        for _ in range(4):
            file.write(f"{HEAD}{KILLED}{TAIL}")
            file.flush()
            told.append(len(alarm.read_shortages()))
    assert told == [1, 0, 0, 1]
