/**
 * The thread an engine lives on, rank 0 of the compute team: builds the engine, then serves the port it was given until the other end closes
 * it. Started by `engine-host.ts`. While it builds it reports to its parent (`HostMessage`); everything later goes over the port.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { EngineServer } from '../engine/engine-server.ts';
import { threadPort } from '../engine/protocol.ts';
import { HastenError, InternalError } from '../platform/errors.ts';
import { buildEngine } from './engine-factory.ts';
import type { EngineWorkerData, HostMessage } from './engine-host.ts';

async function main(): Promise<void> {
  const { setup, port } = workerData as EngineWorkerData;
  const tell = (message: HostMessage): void => parentPort?.postMessage(message);
  try {
    using built = await buildEngine(setup, (progress) => tell({ type: 'progress', progress }));
    await new EngineServer(built.core, built.limits, threadPort(port)).closed;
  } catch (error) {
    const code = error instanceof HastenError ? error.code : 'internal';
    const { message, stack } = error instanceof Error ? error : new InternalError(String(error));
    // Our own errors speak for themselves; of any other the stack is wanted.
    tell({ type: 'failed', code, message: error instanceof HastenError ? message : `${stack}` });
    port.close();
  }
}

await main();
