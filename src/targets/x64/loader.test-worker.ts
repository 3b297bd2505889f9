/** Worker of loader.test.ts: calls code that the main thread loaded, by its address. */
import { parentPort, workerData } from 'node:worker_threads';
import { callerOfAddresses, loadCode } from './loader.ts';

interface Task {
  readonly target: bigint;
  readonly table: bigint;
  readonly code: Uint8Array;
}

const { target, table, code } = workerData as Task;
callerOfAddresses()(target, table, 0n);
{
  // Code of its own, under the same name as the main thread's.
  using own = loadCode([{ name: 'add', code }]);
  own.call('add', table, 0n);
}
parentPort!.postMessage('done');
