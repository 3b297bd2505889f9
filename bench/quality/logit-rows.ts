/**
 * Rows of logits from another process, in order, as they are computed: the process gets a request as JSON on stdin and writes f32 rows to
 * stdout. A slow reader holds the writer back, so whole vocabularies pass without ever being stored. Knows nothing of models.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';

export interface LogitRequest {
  readonly model: string;
  /** Windows of token ids; each window of n tokens gives n - 1 rows, for the positions 0 to n - 2. */
  readonly windows: readonly (readonly number[])[];
  readonly threads: number;
  /** hasten: how it computes. */
  readonly precision?: 'fast' | 'f32';
  /** hasten: what it compiles for; the machine's best where left out. */
  readonly target?: string;
  /** llama.cpp: folder of its shared objects. */
  readonly folder?: string;
}

/**
 * Starts `script` and yields its rows; the array is overwritten by the next row.
 * @throws {Error} if the process fails, or ends within a row
 */
export async function* logitRows(
  script: URL,
  request: LogitRequest,
  vocabSize: number,
): AsyncGenerator<Float32Array> {
  const args = ['--disable-warning=ExperimentalWarning', script.pathname];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const exited = once(child, 'close') as Promise<[number | null, string | null]>;
  const errors = text(child.stderr);
  child.stdin.on('error', () => {});
  child.stdin.end(JSON.stringify(request));
  const row = new Float32Array(vocabSize);
  const bytes = new Uint8Array(row.buffer);
  let filled = 0;
  try {
    for await (const part of child.stdout as AsyncIterable<Buffer>) {
      for (let used = 0; used < part.length; ) {
        const count = Math.min(part.length - used, bytes.length - filled);
        bytes.set(part.subarray(used, used + count), filled);
        used += count;
        filled += count;
        if (filled < bytes.length) continue;
        yield row;
        filled = 0;
      }
    }
    const [code, signal] = await exited;
    if (code !== 0 || filled !== 0) {
      throw new Error(`${script.pathname}: ended with ${code ?? signal}: ${await errors}`);
    }
  } finally {
    child.kill();
  }
}

/** The child's side: the request from stdin. */
export async function readRequest(): Promise<LogitRequest> {
  return JSON.parse(await text(process.stdin)) as LogitRequest;
}

/** The child's side: one row, waiting while the reader is slow. `logits` may be overwritten afterwards. */
export async function writeRow(logits: Float32Array): Promise<void> {
  // A pipe's write goes on after it returned where it could not take all; the copy is for that.
  const bytes = Buffer.copyBytesFrom(logits);
  if (!process.stdout.write(bytes)) await once(process.stdout, 'drain');
}
