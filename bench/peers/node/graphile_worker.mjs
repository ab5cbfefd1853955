// Graphile Worker: its own runner, with the batching of its guide to performance.

import { EventEmitter } from "node:events";

import { Logger, makeWorkerUtils, run, runMigrations, WorkerPreset } from "graphile-worker";

import { payload, progress } from "./progress.mjs";

// Its default logger prints a line for each job, onto the standard output.
const logger = new Logger(() => () => {});

/** The specification of a job: a key is a task, or a named queue, whose jobs run one after the other. */
function specification(number, { keys, settings }) {
  const key = number % keys;
  const job = { payload: payload(number), identifier: settings.named_queues ? "task0" : `task${key}` };
  return settings.named_queues ? { ...job, queueName: `queue${key}` } : job;
}

/** By its own migrations. */
export async function install({ connection }) {
  await runMigrations({ connectionString: connection, logger });
}

/** A worker pool with the settings of the preset. */
export async function work({ connection, keys, settings }) {
  const task = async ({ number }) => progress.start(number);
  const tasks = Array.from({ length: settings.named_queues ? 1 : keys }, (_, key) => [`task${key}`, task]);
  const events = new EventEmitter();
  for (const event of ["localQueue:init", "worker:getJob:start"]) {
    events.once(event, () => progress.claiming());
  }
  await run({
    preset: {
      extends: [WorkerPreset],
      worker: {
        connectionString: connection,
        maxPoolSize: settings.pool,
        pollInterval: settings.poll_interval,
        concurrentJobs: settings.concurrent_jobs,
        localQueue: { size: settings.local_queue },
        completeJobBatchDelay: settings.batch_delay,
        failJobBatchDelay: settings.batch_delay,
        logger,
      },
    },
    taskList: Object.fromEntries(tasks),
    noHandleSignals: true,
    events,
  });
}

/** addJob and addJobs. */
export async function sender(given) {
  const utils = await makeWorkerUtils({ connectionString: given.connection, maxPoolSize: 1, logger });
  return {
    send: async (number) => {
      const { identifier, payload, ...specified } = specification(number, given);
      await utils.addJob(identifier, payload, specified);
    },
    sendMany: async (numbers) => {
      await utils.addJobs(numbers.map((number) => specification(number, given)));
    },
  };
}
