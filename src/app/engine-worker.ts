/**
 * The thread an engine lives on, rank 0 of the compute team: is told which model to open, makes its runner, waits for what its parent knows of
 * the model's text, then serves the port it was given until the other end closes it. Started by `engine-host.ts`.
 */
import { type MessagePort, parentPort } from 'node:worker_threads';
import { EngineCore } from '../engine/engine-core.ts';
import { EngineServer } from '../engine/engine-server.ts';
import { threadPort } from '../engine/protocol.ts';
import { loadModelDescription } from '../models/load-model.ts';
import { HastenError } from '../platform/errors.ts';
import { createRunner } from '../runtime/create-runner.ts';
import type { ModelRunner } from '../targets/model-runner.ts';
import type { HostMessage, ModelText, ThreadMessage } from './engine-host.ts';
import type { EngineSetup } from './engine-setup.ts';
import { decoderSource } from './token-text.ts';

async function main(parent: MessagePort): Promise<void> {
  const tell = (message: HostMessage): void => parent.postMessage(message);
  const opened = Promise.withResolvers<ThreadMessage & { type: 'open' }>();
  const text = Promise.withResolvers<ModelText>();
  parent.on('message', (message: ThreadMessage) => {
    if (message.type === 'open') opened.resolve(message);
    else text.resolve(message);
  });
  const { setup, port } = await opened.promise;
  try {
    using runner = await openRunner(setup, tell);
    const { tokenText, eosTokenIds } = await text.promise;
    const core = new EngineCore({ runner, tokenizer: decoderSource(tokenText), eosTokenIds });
    await new EngineServer(core, runner.limits, threadPort(port)).closed;
  } catch (error) {
    const isOurs = error instanceof HastenError;
    // Our own errors speak for themselves; of any other the stack is wanted.
    const message = isOurs ? error.message : String((error as Error)?.stack ?? error);
    tell({ type: 'failed', code: isOurs ? error.code : 'internal', message });
    port.close();
  }
  parent.close(); // Nothing keeps the thread then.
}

async function openRunner(
  setup: EngineSetup,
  tell: (message: HostMessage) => void,
): Promise<ModelRunner> {
  const { path, ...options } = setup;
  // Closed again at once: a runner keeps its own packed weights.
  using description = loadModelDescription(path, { maxModelLen: setup.maxModelLen ?? null });
  return await createRunner({
    ...options,
    source: description.weights,
    config: description.config,
    onProgress: (progress) => tell({ type: 'progress', progress }),
  });
}

if (parentPort !== null) await main(parentPort);
