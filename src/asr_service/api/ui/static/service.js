// The service's addresses, what it says of itself, and its errors.

/** A refusal of the service, in its own words. */
export class ServiceError extends Error {}

/** An address of the page (`about`) or of the service around it (`../transcribe`). */
export function address(path) {
  return new URL(path, document.baseURI);
}

/** The address of the live connection. */
export function realtimeAddress() {
  const url = address("../v1/realtime");
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

/** What the service says of itself: see `About` in routes.py. */
export async function about() {
  const response = await fetch(address("about"));
  if (!response.ok) throw await refusal(response.status, await response.text());
  return response.json();
}

/** Segments as the text of a subtitle file, `srt` or `vtt`. */
export async function subtitles(format, segments) {
  const sent = segments.map(({ start, end, text, words }) => ({ start, end, text, words: words ?? null }));
  const response = await fetch(address("subtitles"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ format, segments: sent }),
  });
  const body = await response.text();
  if (!response.ok) throw await refusal(response.status, body);
  return body;
}

/** The error that an answer stands for. Who is not logged in any more is led to the login. */
export function refusal(status, body) {
  if (status === 401) location.assign(address("login"));
  try {
    const { detail, error } = JSON.parse(body);
    return new ServiceError(detail ?? error?.message ?? `HTTP ${status}`);
  } catch {
    return new ServiceError(`HTTP ${status}`);
  }
}

/** Log out, and go to the login. */
export async function logOut() {
  await fetch(address("logout"), { method: "POST", redirect: "manual" });
  location.assign(address("login"));
}
