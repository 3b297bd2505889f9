/** GET / and /dashboard: two pages of static files. */
import { readFileSync } from 'node:fs';
import { codeFolder } from '../../platform/package-files.ts';
import type { Route } from './context.ts';

const CSS = 'text/css; charset=utf-8';
const HTML = 'text/html; charset=utf-8';
const JAVASCRIPT = 'text/javascript; charset=utf-8';

const own = (file: string): URL => new URL(`server/page/${file}`, codeFolder);
const installed = (name: string): URL => new URL(import.meta.resolve(name));

const FILES: readonly { readonly url: string; readonly file: URL; readonly type: string }[] = [
  { url: '/', file: own('index.html'), type: HTML },
  { url: '/dashboard', file: own('dashboard.html'), type: HTML },
  { url: '/page/style.css', file: own('style.css'), type: CSS },
  { url: '/page/dashboard.css', file: own('dashboard.css'), type: CSS },
  { url: '/page/api.js', file: own('api.js'), type: JAVASCRIPT },
  { url: '/page/chat.js', file: own('chat.js'), type: JAVASCRIPT },
  { url: '/page/dashboard.js', file: own('dashboard.js'), type: JAVASCRIPT },
  { url: '/page/markdown.js', file: own('markdown.js'), type: JAVASCRIPT },
  { url: '/page/marked.js', file: installed('marked'), type: JAVASCRIPT },
  { url: '/page/purify.js', file: installed('dompurify'), type: JAVASCRIPT },
];

/** Nothing but the page's own files and this server's API. */
const CONTENT_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export const pageRoute: Route = (server) => {
  for (const { url, file, type } of FILES) {
    const body = readFileSync(file);
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
