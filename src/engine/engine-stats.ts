/** Figures of the engine at one moment, and sums since it started. Plain data. */

import type { FinishReason } from './events.ts';
import type { KvStoreStats } from './kv-store.ts';
import type { SpeculationStats } from './speculator.ts';

export interface EngineStats {
  readonly numRunning: number;
  readonly numWaiting: number;
  /** KV blocks in the pool. */
  readonly numBlocks: number;
  /** Blocks that no sequence holds; some of them may hold cached prefixes. */
  readonly numFreeBlocks: number;
  /** Token slots of held blocks that no token stands in. */
  readonly numUnusedSlots: number;
  /** Blocks that the prefix cache can find. */
  readonly numSealedBlocks: number;
  /** Blocks that pinned prefixes hold. */
  readonly numPinnedBlocks: number;
  /** The tiers beyond the pool; `null` where there are none. */
  readonly offload: KvStoreStats | null;
  readonly numSteps: number;
  /** Prompt tokens computed, those computed again after a preemption included. */
  readonly numPromptTokens: number;
  /** Prompt tokens of finished requests that came from the prefix cache. */
  readonly numCachedTokens: number;
  readonly numOutputTokens: number;
  readonly numPreemptions: number;
  readonly numFinished: Readonly<Record<FinishReason, number>>;
  /** `null` with speculation off. */
  readonly speculation: SpeculationStats | null;
  readonly lastStep: {
    readonly numTokens: number;
    readonly numSequences: number;
    readonly stepMs: number;
  };
}
