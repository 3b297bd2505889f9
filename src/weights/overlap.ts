/**
 * Whether ranges of a file lie over each other. Knows nothing of formats.
 */
import { quoted, WeightFileError } from './errors.ts';

/** @throws {WeightFileError} naming the first two tensors (by position) whose bytes overlap; positions count from the start of the file */
export function checkNoOverlap(
  file: string,
  tensors: readonly { name: string; position: number; sizeBytes: number }[],
): void {
  const inOrder = tensors.filter((t) => t.sizeBytes > 0).sort((a, b) => a.position - b.position);
  for (let i = 1; i < inOrder.length; i++) {
    const before = inOrder[i - 1]!;
    const tensor = inOrder[i]!;
    const end = before.position + before.sizeBytes;
    if (tensor.position < end) {
      throw new WeightFileError(
        `begins at byte ${tensor.position}, inside tensor ${quoted(before.name)}, which lies from byte ${before.position} to ${end}`,
        {
          fault: 'corrupt',
          file,
          tensor: tensor.name,
          values: { position: tensor.position, otherPosition: before.position, otherEnd: end },
        },
      );
    }
  }
}
