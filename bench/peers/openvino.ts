/**
 * OpenVINO GenAI as a peer: a Python that has it (`pip install openvino-genai`) runs bench/peers/openvino-driver.py. It reads the same GGUF file, or a
 * folder of its own format. Knows the driver's questions and answers, not what is compared.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { lastJson, runChild } from '../lib/child.ts';

const DRIVER = fileURLToPath(new URL('./openvino-driver.py', import.meta.url));

/** A load on its continuous batching. */
export interface OpenVinoLoad {
  /** A GGUF file, or a folder in OpenVINO's format. */
  readonly model: string;
  readonly threads: number;
  readonly vocabSize: number;
  readonly promptTokens: number;
  readonly sharedTokens: number;
  readonly outputTokens: number;
  readonly numRequests: number;
  readonly seed: number;
  /** Sequences at once, at most. */
  readonly streams: number;
  readonly clients: number | null;
  readonly requestRate: number | null;
  readonly maxBatchedTokens: number;
  readonly cacheGigabytes: number;
}

/** Speeds of prefill and decode. */
export interface OpenVinoBench {
  readonly model: string;
  readonly threads: number;
  readonly vocabSize: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly repetitions: number;
  readonly attentionBackend: OpenVinoAttention;
}

/** Paged attention, or one graph of standard operations. */
export type OpenVinoAttention = 'PA' | 'SDPA';

/** @throws {ChildFailedError} if it fails; the last lines of what it said are in the message */
export async function runOpenVino(
  python: string,
  mode: 'serve' | 'bench',
  question: OpenVinoLoad | OpenVinoBench,
): Promise<unknown> {
  return lastJson(await runChild(python, [DRIVER, mode, JSON.stringify(question)]));
}

/** @throws {Error} if this Python has no OpenVINO GenAI */
export function openVinoVersion(python: string): string {
  const { status, stdout, stderr } = spawnSync(python, [DRIVER, 'version'], { encoding: 'utf8' });
  if (status !== 0) {
    const reason = (stderr ?? '').trim().split('\n').at(-1);
    throw new Error(`${python} has no OpenVINO GenAI (pip install openvino-genai): ${reason}`);
  }
  return (lastJson(stdout) as { version: string }).version;
}
