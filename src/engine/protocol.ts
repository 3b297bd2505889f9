/**
 * What passes between an engine in a thread or process of its own and those who use it. All messages are plain data (with typed arrays), fit for
 * structured clone and for a child process with `serialization: 'advanced'`.
 */

import type { MessagePort } from 'node:worker_threads';
import type { RunnerLimits } from '../targets/model-runner.ts';
import type { EngineCall } from './engine-calls.ts';
import type { EngineStats } from './engine-stats.ts';
import type { EngineEvent } from './events.ts';
import type { PreparedRequest } from './request.ts';

export type ClientMessage =
  | { readonly type: 'submit'; readonly request: PreparedRequest }
  | { readonly type: 'abort'; readonly requestId: string }
  /** Answered by `stats` with the same `callId`. */
  | { readonly type: 'stats'; readonly callId: number }
  /** Answered by `answer` or `refusal` with the same `callId`. */
  | { readonly type: 'call'; readonly callId: number; readonly call: EngineCall }
  /** Answered by `closed` when all requests have ended: by themselves with `drain`, else aborted. */
  | { readonly type: 'shutdown'; readonly drain: boolean };

export type ServerMessage =
  /** The first message: the engine takes requests. */
  | { readonly type: 'ready'; readonly limits: RunnerLimits }
  /** Everything that one step gave, for all its requests. */
  | { readonly type: 'events'; readonly events: readonly EngineEvent[] }
  | { readonly type: 'stats'; readonly callId: number; readonly stats: EngineStats }
  | { readonly type: 'answer'; readonly callId: number; readonly value: unknown }
  | {
      readonly type: 'refusal';
      readonly callId: number;
      readonly code: string;
      readonly message: string;
      /** Of a wrong request: the field at fault. */
      readonly param?: string;
    }
  | { readonly type: 'closed' };

/**
 * What both ends need of a connection: a `MessagePort` of node:worker_threads is one. Messages arrive in order, none after `close`, which comes when
 * either end closed or died.
 */
export interface EnginePort {
  postMessage(message: ClientMessage | ServerMessage): void;
  on(event: 'message' | 'close', listener: (message: unknown) => void): unknown;
  close(): void;
}

/** A connection between two threads. A child process needs an adapter of its own here, with the same three functions. */
export function threadPort(port: MessagePort): EnginePort {
  return port;
}
