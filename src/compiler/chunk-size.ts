/**
 * How many pieces of work a chunk takes, so that threads that claim chunks one after another end together. Knows counts only.
 */

/**
 * The size between `least` and `most` with which the last of `numThreads` threads is done first; of equal ones the first in order from `least` to `most`,
 * which may be the smaller.
 */
export function evenChunkSize(
  numPieces: number,
  numThreads: number,
  [least, most]: readonly [number, number],
): number {
  const step = least <= most ? 1 : -1;
  let best = Math.min(numPieces, least);
  for (let size = least; size !== most + step; size += step) {
    if (piecesOfBusiest(numPieces, numThreads, size) < piecesOfBusiest(numPieces, numThreads, best))
      best = size;
  }
  return best;
}

/** Pieces that the thread with most of them does, if all are equally fast. */
function piecesOfBusiest(numPieces: number, numThreads: number, size: number): number {
  const numChunks = Math.ceil(numPieces / size);
  const wholeRounds = Math.ceil(numChunks / numThreads) - 1;
  const isLastAlone = numChunks - wholeRounds * numThreads === 1;
  return wholeRounds * size + (isLastAlone ? numPieces - (numChunks - 1) * size : size);
}
