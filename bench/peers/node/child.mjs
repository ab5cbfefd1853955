// A process of the benchmark, as child.py is one: node child.mjs install|work|send|flood MODULE ARGUMENTS, the
// arguments as JSON. Each queue's module has install(), work() and sender().

import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

import { now, progress, tell } from "./progress.mjs";

/** Runs a worker until SIGTERM: then says how many jobs it has started, and ends at once. */
async function work(queue, given) {
  process.on("SIGTERM", () => {
    tell("stopped", { count: progress.count() });
    process.exit(0);
  });
  progress.tellEvery(given.every, given.times);
  await queue.work(given);
}

/** Sends jobs at an even pace, and says when each was committed. */
async function send(queue, given) {
  const times = {};
  const { send } = await queue.sender(given);
  const begin = now();
  for (let number = 0; number < given.jobs; number += 1) {
    await sleep(Math.max(0, (begin + number / given.rate - now()) * 1000));
    await send(number);
    times[number] = now();
  }
  tell("sent", { times });
  process.exit(0);
}

/** Sends as many jobs as it can from the word "go" on, for so many seconds. */
async function flood(queue, given) {
  const { send, sendMany } = await queue.sender(given);
  tell("ready");
  await once(process.stdin, "data");
  const until = now() + given.seconds;
  let sent = 0;
  while (now() < until) {
    const first = given.first + sent;
    if (given.batch === 1) {
      await send(first);
    } else {
      await sendMany(Array.from({ length: given.batch }, (_, number) => first + number));
    }
    sent += given.batch;
  }
  tell("sent", { count: sent });
  process.exit(0);
}

const [role, name, argumentsAsJson] = process.argv.slice(2);
const queue = await import(`./${name}.mjs`);
const given = JSON.parse(argumentsAsJson);
const roles = { install: (queue, given) => queue.install(given), work, send, flood };
await roles[role](queue, given);
