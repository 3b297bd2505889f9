/** The thread that encodes rows; started by encoder-team.ts. */
import { parentPort } from 'node:worker_threads';
import { encodeRows } from './encode-rows.ts';
import type { EncodeAnswer, EncodeJob } from './encoder-team.ts';

const port = parentPort!;

port.on('message', ({ id, rows }: EncodeJob) => {
  let answer: EncodeAnswer;
  try {
    answer = { id, encoded: encodeRows(rows) };
  } catch (error) {
    answer = { id, error };
  }
  port.postMessage(answer, 'encoded' in answer ? [answer.encoded.buffer as ArrayBuffer] : []);
});
