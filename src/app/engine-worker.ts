/** The thread an engine lives on, rank 0 of the compute team. Started by `engine-host.ts`. */
import { type MessagePort, parentPort } from 'node:worker_threads';
import { threadPort } from '../engine/protocol.ts';
import type { ModelText, ThreadMessage } from './engine-host.ts';
import { serveEngine } from './serve-engine.ts';

async function main(parent: MessagePort): Promise<void> {
  const opened = Promise.withResolvers<ThreadMessage & { type: 'open' }>();
  const text = Promise.withResolvers<ModelText>();
  parent.on('message', (message: ThreadMessage) => {
    if (message.type === 'open') opened.resolve(message);
    else text.resolve(message);
  });
  const { setup, port } = await opened.promise;
  await serveEngine({
    setup,
    text: text.promise,
    port: threadPort(port),
    tell: (message) => parent.postMessage(message),
  });
  parent.close(); // Nothing keeps the thread then.
}

if (parentPort !== null) await main(parentPort);
