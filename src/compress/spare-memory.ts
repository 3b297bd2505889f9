/** Memory that is kept when it is no longer used, for what is asked for next: taking fresh pages costs several times what it takes to fill them. */
import type { NativeRegion } from '../platform/native-memory.ts';

/** Most that is kept. */
const MOST_BYTES = 2 ** 30;
/** A region serves what is at least its size divided by this. */
const MOST_WASTE = 2;

export class SpareMemory implements Disposable {
  /** By rising size. */
  readonly #regions: NativeRegion[] = [];
  #sizeBytes = 0;
  #isDisposed = false;

  /** The smallest region that is large enough, as it was left; null if there is none. */
  take(sizeBytes: number): NativeRegion | null {
    const index = this.#regions.findIndex((region) => region.byteLength >= sizeBytes);
    if (index < 0 || this.#regions[index]!.byteLength > MOST_WASTE * sizeBytes) return null;
    const [region] = this.#regions.splice(index, 1);
    this.#sizeBytes -= region!.byteLength;
    return region!;
  }

  /** Takes a region over. */
  put(region: NativeRegion): void {
    if (this.#isDisposed || this.#sizeBytes + region.byteLength > MOST_BYTES) {
      region.free();
      return;
    }
    const index = this.#regions.findIndex((other) => other.byteLength >= region.byteLength);
    this.#regions.splice(index < 0 ? this.#regions.length : index, 0, region);
    this.#sizeBytes += region.byteLength;
  }

  /** What is put here afterwards is freed. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    for (const region of this.#regions) region.free();
    this.#regions.length = 0;
  }
}
