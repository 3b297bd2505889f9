/** The thread that encodes rows; started by encoder-team.ts. */
import { parentPort } from 'node:worker_threads';
import { EncodeKernels } from './encode-kernels.ts';
import { encodeRows } from './encode-rows.ts';
import type { EncodeAnswer, EncodeJob } from './encoder-team.ts';

const port = parentPort!;
const kernels = EncodeKernels.create();

port.on('message', ({ id, rows }: EncodeJob) => {
  let answer: EncodeAnswer;
  try {
    answer = { id, encoded: encodeRows(rows, kernels) };
  } catch (error) {
    answer = { id, error };
  }
  port.postMessage(answer, 'encoded' in answer ? [answer.encoded.buffer as ArrayBuffer] : []);
});
