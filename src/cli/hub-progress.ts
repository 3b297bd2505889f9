/** From what the hub reports to the progress bar's terms. */
import type { ProgressListener, PullPhase } from '../hub/progress.ts';
import type { ProgressUpdate } from './progress.ts';

const VERBS: Readonly<Record<PullPhase, string>> = {
  resolving: 'looking up',
  waiting: 'waiting for another pull of',
  downloading: 'downloading',
  unpacking: 'unpacking',
  verifying: 'verifying',
  done: 'downloaded',
};

export function hubProgress(onUpdate: (update: ProgressUpdate) => void): ProgressListener {
  return ({ phase, file, receivedBytes, totalBytes }) =>
    onUpdate({
      label: `${VERBS[phase]} ${file}`,
      done: receivedBytes,
      total: totalBytes ?? 0,
      unit: 'bytes',
    });
}
