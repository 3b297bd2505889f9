/** GET /: the chat page, three static files. */
import { readFileSync } from 'node:fs';
import type { Route } from './context.ts';

const FILES = [
  { url: '/', file: 'index.html', type: 'text/html; charset=utf-8' },
  { url: '/page/style.css', file: 'style.css', type: 'text/css; charset=utf-8' },
  { url: '/page/chat.js', file: 'chat.js', type: 'text/javascript; charset=utf-8' },
] as const;

/** Nothing but the page's own files and this server's API. */
const CONTENT_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export const pageRoute: Route = (server) => {
  for (const { url, file, type } of FILES) {
    const body = readFileSync(new URL(`../page/${file}`, import.meta.url));
    server.get(url, async (_request, reply) =>
      reply
        .headers({
          'content-type': type,
          'content-security-policy': CONTENT_POLICY,
          'x-content-type-options': 'nosniff',
          'referrer-policy': 'no-referrer',
          'cache-control': 'no-cache',
        })
        .send(body),
    );
  }
};
