// pg-boss: large batches, fetched without a pause as long as they are full.

import { PgBoss } from "pg-boss";

import { payload, progress } from "./progress.mjs";

/** An instance of its own, with so many connections. */
async function start(connection, max, options = {}) {
  const boss = new PgBoss({ connectionString: connection, max, ...options });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

const names = (queues) => Array.from({ length: queues }, (_, number) => `queue${number}`);

/** The queue of a job; where there are fewer queues than keys, the key is the job's group. */
const queueOf = (number, { queues }) => `queue${number % queues}`;
const jobOf = (number, { keys, queues }) =>
  keys === queues ? { data: payload(number) } : { data: payload(number), group: { id: String(number % keys) } };

/** Its schema, and a queue each; "notify" wakes an idle worker. */
export async function install({ connection, queues, settings }) {
  const boss = await start(connection, 1, { supervise: false, schedule: false });
  for (const name of names(queues)) {
    await boss.createQueue(name, { notify: true, partition: settings.partition });
  }
  await boss.stop({ graceful: false });
}

/** Its workers, so many of each queue. */
export async function work({ connection, queues, settings }) {
  const boss = await start(connection, settings.pool, { useListenNotify: true });
  progress.claiming();
  for (const name of names(queues)) {
    await boss.work(
      name,
      {
        batchSize: settings.batch_size,
        localConcurrency: settings.local_concurrency,
        pollingIntervalSeconds: 0.5,
        burstWhenBatchFull: true,
      },
      async (jobs) => {
        for (const job of jobs) {
          progress.start(job.data.number);
        }
      },
    );
  }
}

/** send and insert. */
export async function sender(given) {
  const boss = await start(given.connection, 1, { supervise: false, schedule: false });
  return {
    send: async (number) => {
      const { data, ...options } = jobOf(number, given);
      await boss.send(queueOf(number, given), data, options);
    },
    // Its insert takes the jobs of one queue: each call goes to the next.
    sendMany: async (numbers) => {
      const queue = queueOf(Math.floor(numbers[0] / numbers.length), given);
      await boss.insert(queue, numbers.map((number) => jobOf(number, given)));
    },
  };
}
