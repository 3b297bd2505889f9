/** The thread that encodes rows; started by encoder-team.ts. */
import { parentPort } from 'node:worker_threads';
import { EncodeKernels } from './encode-kernels.ts';
import { encodeRows } from './encode-rows.ts';
import type { EncodeAnswer, EncodeJob, NonFiniteWeight } from './encoder-team.ts';
import { NonFiniteWeightError } from './errors.ts';

const port = parentPort!;
const kernels = EncodeKernels.create();

port.on('message', (job: EncodeJob | null) => {
  if (job === null) {
    // Native memory does not end with the thread.
    kernels?.[Symbol.dispose]();
    port.close();
    return;
  }
  const { id, rows } = job;
  let answer: EncodeAnswer;
  try {
    answer = { id, encoded: encodeRows(rows, kernels), stored: rows.stored };
  } catch (error) {
    answer = error instanceof NonFiniteWeightError ? { id, weight: placeOf(error) } : { id, error };
  }
  const views = 'encoded' in answer ? [answer.encoded, answer.stored] : [];
  port.postMessage(
    answer,
    views.map(({ buffer }) => buffer as ArrayBuffer),
  );
});

/** Errors lose their class on the way. */
function placeOf({ tensor, row, column, value }: NonFiniteWeightError): NonFiniteWeight {
  return { tensor: tensor!, row, column, value };
}
