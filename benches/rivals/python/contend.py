"""Contenders of the contention runner that are Python libraries, with the defaults that their users get.

    contend.py --about SUBJECT                                          its version, or an error: is it there?
    contend.py SUBJECT ADDRESS KEY PROCESS TASKS HOLD_US AWAY_US TTL_MS

Says `ready`. Told `go`, every task (a thread) takes, holds, gives, stays away, until told `stop`: then one line a turn, and `done`. Told
`hold`, it takes, says `taken NS`, renews every third of the ttl, and never gives back. Ends when its input does. Times are nanoseconds of
CLOCK_MONOTONIC.
"""

import importlib
import importlib.metadata
import os
import sys
import threading
import time

PATIENCE = 600


class Filelock:
    package, module = "filelock", "filelock"

    def __init__(self, address, key, _ttl):
        import filelock

        self.lock = filelock.FileLock(os.path.join(address, key + ".filelock"))

    def take(self):
        self.lock.acquire()

    def give(self):
        self.lock.release()


class Portalocker:
    package, module = "portalocker", "portalocker"

    def __init__(self, address, key, _ttl):
        import portalocker

        self.lock = portalocker.Lock(os.path.join(address, key + ".portalocker"), timeout=PATIENCE)

    def take(self):
        self.lock.acquire()

    def give(self):
        self.lock.release()


class RedisPy:
    package, module = "redis", "redis"

    def __init__(self, address, key, ttl):
        import redis

        self.lock = redis.Redis.from_url(address).lock(key, timeout=ttl)

    def take(self):
        self.lock.acquire()

    def give(self):
        self.lock.release()

    def renew(self):
        self.lock.reacquire()


class PythonRedisLock:
    package, module = "python-redis-lock", "redis_lock"

    def __init__(self, address, key, ttl):
        import redis
        import redis_lock

        self.lock = redis_lock.Lock(redis.StrictRedis.from_url(address), key, expire=int(ttl))

    def take(self):
        self.lock.acquire()

    def give(self):
        self.lock.release()

    def renew(self):
        self.lock.extend()


SUBJECTS = {
    "filelock": Filelock,
    "portalocker": Portalocker,
    "redis-py": RedisPy,
    "python-redis-lock": PythonRedisLock,
}

now = time.monotonic_ns


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def contend(contender, task, hold, away, turns, asked):
    while True:
        asked[task] = now()
        contender.take()
        taken = now()
        if hold:
            time.sleep(hold)
        giving = now()
        contender.give()
        turns.append((asked[task], taken, giving, task))
        asked[task] = None
        if away:
            time.sleep(away)


def keep(contender, ttl):
    contender.take()
    say(f"taken {now()}")
    while True:
        time.sleep(ttl / 3)
        if hasattr(contender, "renew"):
            contender.renew()


def guarded(work, *arguments):
    """A task that fails ends the process, and says why."""

    def run():
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001
            sys.stderr.write(f"contend {sys.argv[1]}: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)

    threading.Thread(target=run, daemon=True).start()


def main():
    if sys.argv[1:2] == ["--about"]:
        subject = SUBJECTS[sys.argv[2]]
        importlib.import_module(subject.module)
        print(importlib.metadata.version(subject.package))
        return
    subject, address, key, _process, tasks, hold, away, ttl = sys.argv[1:]
    tasks, hold, away, ttl = int(tasks), int(hold) / 1e6, int(away) / 1e6, int(ttl) / 1e3
    contenders = [SUBJECTS[subject](address, key, ttl) for _ in range(tasks)]
    turns, asked = [], [None] * tasks
    say("ready")
    for command in iter(sys.stdin.readline, ""):
        command = command.strip()
        if command == "go":
            for task, contender in enumerate(contenders):
                guarded(contend, contender, task, hold, away, turns, asked)
        elif command == "hold":
            guarded(keep, contenders[0], ttl)
        elif command == "stop":
            waiting = [since for since in list(asked) if since is not None]
            lines = [f"turn {a} {t} {g} {task}" for a, t, g, task in list(turns)]
            lines += [f"waiting {since}" for since in waiting]
            say("\n".join([*lines, "done"]))
    os._exit(0)


main()
