/**
 * A program with a thread team that ends in the way that its argument names; its exit code says whether it came to an end as it should. With `in-worker`
 * the team stands in a worker thread, as the engine's does.
 *
 *     node team-process.ts exit|throw|reject|natural|terminate [in-worker]
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { ThreadTeam } from '../thread-team.ts';

async function startTeam(): Promise<void> {
  const team = new ThreadTeam(2, 4096);
  while (team.joinedThreads < 2) await new Promise((resolve) => setTimeout(resolve, 1));
}

async function end(way: string | undefined, worker?: Worker): Promise<void> {
  switch (way) {
    case 'exit':
      process.exit(3);
      break;
    case 'throw':
      setImmediate(() => {
        throw new Error('meant to be thrown');
      });
      break;
    case 'reject':
      void Promise.reject(new Error('meant to be rejected'));
      break;
    case 'terminate':
      await worker?.terminate();
      break;
    default:
      worker?.unref();
  }
}

const [way, place] = process.argv.slice(2);
if (!isMainThread) {
  await startTeam();
  parentPort?.postMessage('joined');
  if (workerData !== 'leaves') setInterval(() => {}, 1000);
} else if (place === 'in-worker') {
  const isLeft = way === 'natural';
  const worker = new Worker(new URL(import.meta.url), { workerData: isLeft ? 'leaves' : 'stays' });
  worker.once('message', () => void end(way, worker));
} else {
  await startTeam();
  await end(way);
}
