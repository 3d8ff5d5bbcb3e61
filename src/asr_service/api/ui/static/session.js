// One live connection: audio out, the events of docs/realtime.md in, gathered into utterances.
//
// Knows nothing of the microphone and of the screen.

import { RATE_HZ } from "./recorder.js";
import { realtimeAddress } from "./service.js";

const ITEM = "conversation.item.input_audio_transcription.";
const FINISH_LIMIT_MS = 30_000;
const COMMIT_ID = "the-last-commit";

export class Session {
  /**
   * `onUtterance({id, startS, endS, settled, unsettled, state, language, words, reason})` hears of every change; `state` is
   * open, done or failed, and times are seconds from the session's beginning. `onError(message)` hears what the service
   * complains about, and `onEnd(kind)` once how it ended: finished, refused, or lost.
   */
  constructor({ onUtterance, onError, onEnd }) {
    Object.assign(this, { onUtterance, onError, onEnd });
    this.utterances = new Map();
    this.state = "connecting";
  }

  /** Connect. `language`: a code, or "" to have it detected; `words`: whether to ask for the times of words. */
  connect({ language, words }) {
    return new Promise((resolve) => {
      this.socket = new WebSocket(realtimeAddress());
      this.socket.binaryType = "arraybuffer";
      this.socket.addEventListener("open", () => {
        this.state = "open";
        this.#send(settings(language, words));
        resolve(true);
      });
      this.socket.addEventListener("message", ({ data }) => this.#hear(JSON.parse(data)));
      this.socket.addEventListener("close", () => {
        this.#end(this.state === "connecting" ? "refused" : "lost");
        resolve(false);
      });
    });
  }

  /** Send audio: an Int16Array, which is sent as it lies in memory, little-endian on whatever runs a browser. */
  audio(pcm) {
    if (this.state === "open") this.socket.send(pcm);
  }

  /** End what is being spoken, wait for all texts, and close the connection. */
  finish() {
    if (this.state !== "open") return;
    this.state = "finishing";
    this.answered = false;
    this.#send({ type: "input_audio_buffer.commit", event_id: COMMIT_ID });
    this.limit = setTimeout(() => this.#end("lost"), FINISH_LIMIT_MS);
  }

  /** Close the connection now. */
  abandon() {
    this.#end("finished");
  }

  #send(event) {
    this.socket.send(JSON.stringify(event));
  }

  #end(kind) {
    if (this.state === "ended") return;
    this.state = "ended";
    clearTimeout(this.limit);
    this.socket.close();
    this.onEnd(kind);
  }

  #hear(event) {
    if (this.state === "ended") return;
    if (event.type === "error") this.#complain(event.error);
    else if (event.type === "input_audio_buffer.speech_started") this.#change(event, { startS: event.audio_start_ms / 1000 });
    else if (event.type === "input_audio_buffer.committed") {
      this.#change(event, {});
      this.answered = true;
    } else if (event.type?.startsWith(ITEM)) this.#transcribed(event.type.slice(ITEM.length), event);
    this.#perhapsFinished();
  }

  #transcribed(kind, event) {
    if (kind === "delta") {
      const before = this.utterances.get(event.item_id)?.deltas ?? "";
      this.#change(event, { deltas: before + event.delta, settled: before + event.delta, unsettled: "" });
    } else if (kind === "partial") this.#change(event, { settled: event.settled, unsettled: event.unsettled });
    else if (kind === "completed") {
      const { transcript, start, end, language = null, words = null } = event;
      this.#change(event, { state: "done", settled: transcript, unsettled: "", startS: start, endS: end, language, words });
    } else if (kind === "failed") this.#change(event, { state: "failed", unsettled: "", reason: event.error?.message ?? "" });
  }

  #change({ item_id: id }, what) {
    const before = this.utterances.get(id) ?? { id, startS: null, endS: null, settled: "", unsettled: "", state: "open" };
    const now = { ...before, ...what };
    this.utterances.set(id, now);
    this.onUtterance(now);
  }

  #complain(error) {
    // There was nothing left to commit: that is as good as an answer.
    if (this.state === "finishing" && error.code === "input_audio_buffer_commit_empty") this.answered = true;
    else this.onError(error.message);
  }

  #perhapsFinished() {
    const open = [...this.utterances.values()].some(({ state }) => state === "open");
    if (this.state === "finishing" && this.answered && !open) this.#end("finished");
  }
}

function settings(language, words) {
  const include = ["item.input_audio_transcription.partial"];
  if (words) include.push("item.input_audio_transcription.words");
  const input = { format: { type: "audio/pcm", rate: RATE_HZ } };
  if (language) input.transcription = { language };
  return { type: "session.update", session: { type: "transcription", audio: { input }, include } };
}
