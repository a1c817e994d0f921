// Contenders of the contention runner that are npm packages, with the defaults that their users get. The lines it hears and says are
// those of ../python/contend.py. Packages are looked for where SOLOCRON_RIVALS_NODE says.
"use strict";
const { createRequire } = require("node:module");
const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");

const home = process.env.SOLOCRON_RIVALS_NODE;
const packages = createRequire(path.join(home, "package.json"));
const now = () => process.hrtime.bigint(); // CLOCK_MONOTONIC
const say = (line) => process.stdout.write(line + "\n");
const pause = (us) => (us > 0 ? new Promise((go) => setTimeout(go, us / 1000)) : undefined);

/** One client and one Redlock a process, as its documentation shows; who waits tries until it has it (`retryCount: -1`). */
class RedlockContender {
  static shared;

  static about() {
    const version = (name) =>
      JSON.parse(fs.readFileSync(path.join(home, "node_modules", name, "package.json"), "utf8")).version;
    return `${version("redlock")}, ioredis ${version("ioredis")}`;
  }

  constructor(address, key, ttl) {
    const { default: Redlock } = packages("redlock");
    const Redis = packages("ioredis");
    RedlockContender.shared ??= new Redlock([new Redis(address)], { retryCount: -1 });
    Object.assign(this, { key, ttl });
  }

  async take() {
    this.lock = await RedlockContender.shared.acquire([this.key], this.ttl);
  }

  async give() {
    await this.lock.release();
  }

  async renew() {
    this.lock = await this.lock.extend(this.ttl);
  }
}

const SUBJECTS = { redlock: RedlockContender };

async function contend(contender, task, hold, away, turns, asked) {
  for (;;) {
    asked[task] = now();
    await contender.take();
    const taken = now();
    await pause(hold);
    const giving = now();
    await contender.give();
    turns.push(`turn ${asked[task]} ${taken} ${giving} ${task}`);
    asked[task] = undefined;
    await pause(away);
  }
}

async function keep(contender, ttl) {
  await contender.take();
  say(`taken ${now()}`);
  for (;;) {
    await pause((ttl / 3) * 1000);
    await contender.renew();
  }
}

function fail(error) {
  process.stderr.write(`contend ${process.argv[2]}: ${error}\n`);
  process.exit(1);
}

function main() {
  if (process.argv[2] === "--about") {
    say(SUBJECTS[process.argv[3]].about());
    return;
  }
  const [subject, address, key, , ...numbers] = process.argv.slice(2);
  const [tasks, hold, away, ttl] = numbers.map(Number);
  const contenders = Array.from({ length: tasks }, () => new SUBJECTS[subject](address, key, ttl));
  const turns = [];
  const asked = [];
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", (command) => {
    if (command === "go") {
      contenders.forEach((contender, task) => contend(contender, task, hold, away, turns, asked).catch(fail));
    } else if (command === "hold") {
      keep(contenders[0], ttl).catch(fail);
    } else if (command === "stop") {
      const waiting = asked.filter((since) => since !== undefined).map((since) => `waiting ${since}`);
      say([...turns, ...waiting, "done"].join("\n"));
    }
  });
  lines.on("close", () => process.exit(0));
  say("ready");
}

main();
