/**
 * The inside of an engine that lives on a thread or in a process of its own: opens the model it is told of, waits for what its owner knows of
 * the model's text, then serves its port until the other end closes it. Knows nothing of what carries the messages.
 */
import { EngineCore } from '../engine/engine-core.ts';
import { EngineServer } from '../engine/engine-server.ts';
import type { EnginePort } from '../engine/protocol.ts';
import { loadModelDescription } from '../models/load-model.ts';
import { HastenError } from '../platform/errors.ts';
import { createRunner } from '../runtime/create-runner.ts';
import type { ModelRunner } from '../targets/model-runner.ts';
import type { HostMessage, ModelText } from './engine-host.ts';
import type { EngineSetup } from './engine-setup.ts';
import { decoderSource } from './token-text.ts';

export interface ServedEngine {
  readonly setup: EngineSetup;
  readonly text: Promise<ModelText>;
  readonly port: EnginePort;
  readonly tell: (message: HostMessage) => void;
}

/** Settles when the engine has ended; a fault of opening the model is told, not thrown. */
export async function serveEngine({ setup, text, port, tell }: ServedEngine): Promise<void> {
  try {
    using runner = await openRunner(setup, tell);
    const { tokenText, eosTokenIds } = await text;
    const core = new EngineCore({ runner, tokenizer: decoderSource(tokenText), eosTokenIds });
    await new EngineServer(core, runner.limits, port).closed;
  } catch (error) {
    const isOurs = error instanceof HastenError;
    // Our own errors speak for themselves; of any other the stack is wanted.
    const message = isOurs ? error.message : String((error as Error)?.stack ?? error);
    tell({ type: 'failed', code: isOurs ? error.code : 'internal', message });
    port.close();
  }
}

async function openRunner(
  setup: EngineSetup,
  tell: (message: HostMessage) => void,
): Promise<ModelRunner> {
  const { path, loadIn, ...options } = setup;
  // Closed again at once: a runner keeps its own packed weights.
  using description = loadModelDescription(path, {
    maxModelLen: setup.maxModelLen ?? null,
    loadIn: loadIn ?? null,
  });
  return await createRunner({
    ...options,
    source: description.weights,
    config: description.config,
    onProgress: (progress) => tell({ type: 'progress', progress }),
  });
}
