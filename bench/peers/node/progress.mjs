// How a process tells the program that started it how far it is: a line of JSON each, as progress.py has it.

import { writeSync } from "node:fs";

/** The time in seconds, as Python's time.time() gives it. */
export const now = () => (performance.timeOrigin + performance.now()) / 1000;

/** Prints a line of JSON: the event, the time and the details. */
export function tell(event, details = {}) {
  writeSync(1, `${JSON.stringify({ event, time: now(), ...details })}\n`);
}

let started = 0;
let every = Infinity;
let next = Infinity;
let times = null;
let isClaiming = false;

/** Counts the jobs that were started. */
export const progress = {
  /** Says "started" after so many jobs, and again after as many; withTimes: with the time of each start. */
  tellEvery(jobs, withTimes) {
    next = every = jobs;
    times = withTimes ? {} : null;
  },

  /** The worker's first claim begins now; later calls do nothing. */
  claiming() {
    if (!isClaiming) {
      isClaiming = true;
      tell("claiming");
    }
  },

  /** A job starts: the first thing that every handler calls, and the last. */
  start(number) {
    if (times !== null) {
      times[number] = now();
    }
    started += 1;
    if (started >= next) {
      next += every;
      tell("started", { count: started, times });
    }
  },

  /** How many jobs were started. */
  count: () => started,
};

/** The arguments of a job: its number, and padding that brings its JSON to 50 bytes as Python writes it. */
export const payload = (number) => ({ number, padding: "x".repeat(23 - String(number).length) });
