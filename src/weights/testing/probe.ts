/**
 * For tests: opens a file that may be hostile, reads everything in it, and says what happened, how long it took and how far the peak
 * of the process's memory rose.
 */
import { canDecode } from '../../tensor/rows.ts';
import { openWeights, WeightFileError } from '../weight-source.ts';

export interface ProbeResult {
  readonly error: WeightFileError | null;
  readonly numTensors: number;
  readonly elapsedMs: number;
  readonly peakGrowthBytes: number;
}

/** @throws whatever is no WeightFileError: that is what the tests look for */
export function probe(path: string): ProbeResult {
  const peakBefore = peakBytes();
  const start = performance.now();
  let error: WeightFileError | null = null;
  let numTensors = 0;
  try {
    using source = openWeights(path);
    numTensors = source.tensors.size;
    for (const [name, tensor] of source.tensors) {
      const bytes = source.readRows(name);
      if (bytes.length !== tensor.sizeBytes) {
        throw new Error(`${name}: ${bytes.length} bytes read of ${tensor.sizeBytes}`);
      }
      if (canDecode(tensor.dtype)) source.readF32(name);
    }
  } catch (thrown) {
    if (!(thrown instanceof WeightFileError)) throw thrown;
    error = thrown;
  }
  return {
    error,
    numTensors,
    elapsedMs: performance.now() - start,
    peakGrowthBytes: peakBytes() - peakBefore,
  };
}

/** Peak resident memory of the process, which also shows what was freed again. */
export function peakBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}
