/**
 * The messages between a server and the process its engine lives in: one IPC channel carries those of the engine's protocol and those of
 * its start. Knows nothing of what they say.
 */
import type { EnginePort } from '../engine/protocol.ts';
import type { HostMessage, ModelText } from './engine-host.ts';
import type { EngineSetup } from './engine-setup.ts';

/** What the engine's process is told beside the protocol: both at once, and once. */
export type ProcessMessage =
  | { readonly type: 'open'; readonly setup: EngineSetup }
  | ({ readonly type: 'text' } & ModelText);

/** Either way; `engine` holds a message of the engine's protocol. */
export type Envelope =
  | { readonly engine: unknown }
  | { readonly host: ProcessMessage | HostMessage };

/** What both a child process and `process` inside it are, towards each other. */
export interface IpcChannel {
  readonly connected: boolean;
  send?(message: unknown, callback: (error: Error | null) => void): boolean;
  disconnect(): void;
  on(event: 'message' | 'disconnect', listener: (message: unknown) => void): unknown;
}

/** Sends, or drops the message if the other end is gone, which the `disconnect` event tells. */
export function sendEnvelope(channel: IpcChannel, envelope: Envelope): void {
  // The callback takes the error that would else be thrown out of the event loop.
  if (channel.connected) channel.send?.(envelope, () => {});
}

/** The engine's protocol over the channel. `close` comes after the last message that was received, also when the other end was killed. */
export function processPort(channel: IpcChannel): EnginePort {
  return {
    postMessage: (engine) => sendEnvelope(channel, { engine }),
    on: (event, listener) => {
      if (event === 'close') {
        channel.on('disconnect', listener);
        return;
      }
      channel.on('message', (message) => {
        const envelope = message as Envelope;
        if ('engine' in envelope) listener(envelope.engine);
      });
    },
    close: () => {
      if (channel.connected) channel.disconnect();
    },
  };
}
