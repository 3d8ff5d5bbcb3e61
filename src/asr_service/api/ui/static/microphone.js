// The tab for the microphone: what is said appears while it is said.

import { Actions } from "./actions.js";
import { clock, make } from "./dom.js";
import { label, say, t } from "./i18n.js";
import { Lines } from "./lines.js";
import { Facts, Notice, SpokenLanguage } from "./parts.js";
import { Kept, MicrophoneError, Recorder } from "./recorder.js";
import { Session } from "./session.js";

export class MicrophoneTab {
  constructor() {
    this.kept = new Kept();
    this.utterances = new Map(); // done, by key, in order
    this.sessions = 0;
    this.state = "idle"; // or starting, running, finishing
    this.offer = { model: null, word_times: false };
    this.player = new Audio();
    this.player.addEventListener("ended", () => this.lines.mark(null));
    this.player.addEventListener("pause", () => this.lines.mark(null));
    this.#build();
    this.#show();
  }

  /** What the service offers: see `About` in routes.py. */
  serve(about) {
    this.offer = about;
    this.spoken.offer(about.languages);
    this.#show();
  }

  #build() {
    this.spoken = new SpokenLanguage();
    this.notice = new Notice();
    this.facts = new Facts();
    this.lines = new Lines((key, from) => this.#play(key, from));
    this.actions = new Actions(() => this.#transcript(), this.notice);
    this.clearButton = say(make("button", { type: "button", class: "asr-button", onclick: () => this.#clear() }), "clear");
    this.actions.copyButton.after(this.clearButton);
    this.button = make("button", { type: "button", class: "asr-button asr-primary asr-record", onclick: () => this.#pressed() });
    this.meter = make("meter", { class: "asr-meter", min: 0, max: 1, value: 0 });
    label(this.meter, "level");
    this.time = make("output", { class: "asr-clock" }, clock(0));
    label(this.time, "recorded");
    this.hint = say(make("p", { class: "asr-hint asr-soft" }), "live_hint");
    const heard = make("div", { class: "asr-heard" }, this.meter, this.time);
    const controls = make("div", { class: "asr-controls" }, this.button, heard, this.spoken.element);
    const sheet = make("section", { class: "asr-sheet" }, this.hint, this.lines.element);
    this.elements = [controls, this.notice.element, sheet, this.facts.element, this.actions.element];
  }

  #show() {
    const keys = { idle: "start", starting: "connecting", running: "stop", finishing: "finishing" };
    say(this.button, keys[this.state]);
    this.button.disabled = this.state === "starting" || this.state === "finishing";
    this.button.classList.toggle("asr-running", this.state === "running");
    this.spoken.disabled = this.state !== "idle";
    this.hint.hidden = this.lines.lines.size > 0;
    const spoken = [...this.utterances.values()];
    this.actions.enable(spoken.length > 0);
    this.clearButton.disabled = this.state !== "idle" || this.lines.lines.size === 0;
    if (this.state === "idle") this.meter.value = 0;
    if (spoken.length > 0) {
      const { language } = spoken.findLast((each) => each.language) ?? { language: null };
      this.facts.show({ language, model: this.offer.model });
    } else this.facts.clear();
  }

  #become(state) {
    this.state = state;
    this.#show();
  }

  async #pressed() {
    if (this.state === "running") await this.#stop();
    else if (this.state === "idle") await this.#start();
  }

  async #start() {
    this.player.pause();
    this.notice.clear();
    this.complaint = null;
    this.#become("starting");
    this.recorder = new Recorder((pcm, peak) => this.#audio(pcm, peak), () => this.#lost());
    try {
      await this.recorder.open();
    } catch (error) {
      await this.recorder.close();
      if (error instanceof MicrophoneError) this.notice.say(error.message);
      else this.notice.show(String(error));
      this.#become("idle");
      return;
    }
    const number = ++this.sessions;
    const beginS = this.kept.seconds;
    this.session = new Session({
      onUtterance: (utterance) => this.#utterance(number, beginS, utterance),
      onError: (message) => {
        this.complaint = message;
        this.notice.show(message);
      },
      onEnd: (kind) => this.#ended(kind),
    });
    const options = { language: this.spoken.value, words: this.offer.word_times };
    if (await this.session.connect(options)) {
      this.recorder.begin();
      this.#become("running");
    }
  }

  async #stop() {
    this.#become("finishing");
    await this.recorder.close();
    this.session.finish();
  }

  #lost() {
    if (this.state !== "running") return;
    this.notice.say("microphone_lost");
    this.#stop();
  }

  #audio(pcm, peak) {
    this.session.audio(pcm);
    this.kept.add(pcm);
    // Loudness is heard in steps of decibels: 60 of them fill the meter.
    this.meter.value = Math.max(0, 1 + Math.log10(Math.max(peak, 0.001)) / 3);
    this.time.textContent = clock(this.kept.seconds);
  }

  async #ended(kind) {
    await this.recorder.close();
    for (const key of [...this.lines.lines.keys()]) this.#closeLine(key);
    this.#become("idle");
    if (kind === "finished") return;
    const again = () => this.#start();
    if (this.complaint !== null) this.notice.offer(this.complaint, "reconnect", again);
    else this.notice.say(kind === "refused" ? "connection_refused" : "connection_lost", {}, "reconnect", again);
  }

  /** What was still open when the connection ended stays as far as it had settled. */
  #closeLine(key) {
    if (this.utterances.has(key) || !this.open?.has(key)) return;
    const { start, text } = this.open.get(key);
    this.open.delete(key);
    if (!text.trim()) {
      this.lines.remove(key);
      return;
    }
    this.#keep(key, { start, end: Math.max(start, this.kept.seconds), text, language: null, words: null });
  }

  #utterance(number, beginS, { id, startS, endS, settled, unsettled, state, language, words, reason }) {
    const key = `${number} ${id}`;
    const start = beginS + (startS ?? Math.max(0, this.kept.seconds - beginS));
    this.open ??= new Map();
    if (state === "done") {
      this.open.delete(key);
      if (settled.trim()) {
        const moved = words?.map((word) => ({ word: word.word, start: beginS + word.start, end: beginS + word.end })) ?? null;
        this.#keep(key, { start, end: beginS + endS, text: settled.trim(), language, words: moved });
      } else this.lines.remove(key);
    } else if (state === "failed") {
      this.open.delete(key);
      this.lines.put(key, { start, end: null, text: t("utterance_failed", { reason }), failed: true });
    } else {
      const begun = this.open.get(key)?.start ?? start;
      this.open.set(key, { start: begun, text: settled });
      if (settled || unsettled || startS !== null) this.lines.put(key, { start: begun, text: settled, unsettled });
    }
    this.#show();
  }

  #keep(key, utterance) {
    this.utterances.set(key, utterance);
    this.lines.put(key, utterance);
  }

  #play(key, from) {
    const { start, end } = this.utterances.get(key);
    const wav = this.kept.wav(from ?? start, end);
    if (wav === null) {
      this.notice.say("not_kept");
      return;
    }
    if (this.player.src) URL.revokeObjectURL(this.player.src);
    this.player.src = URL.createObjectURL(wav);
    this.player.play().then(
      () => this.lines.mark(key),
      (error) => this.notice.show(error.message),
    );
  }

  #clear() {
    this.player.pause();
    this.kept.clear();
    this.utterances.clear();
    this.lines.clear();
    this.notice.clear();
    this.time.textContent = clock(0);
    this.#show();
  }

  #transcript() {
    const segments = [...this.utterances.values()].map(({ start, end, text, language, words }) => ({
      start: rounded(start),
      end: rounded(end),
      text,
      language,
      ...(words === null ? {} : { words: words.map((word) => ({ ...word, start: rounded(word.start), end: rounded(word.end) })) }),
    }));
    const text = segments.map((segment) => segment.text).join("\n");
    return { name: "live", text, segments, document: { text, model: this.offer.model, segments } };
  }
}

function rounded(seconds) {
  return Math.round(seconds * 1000) / 1000;
}
