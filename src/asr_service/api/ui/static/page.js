// Where the page begins: puts its parts into the boxes of the frame, and tells them what the service offers.

import { make, whenThere } from "./dom.js";
import { choose, label, language, LANGUAGES, onLanguage, say, t, unsay } from "./i18n.js";
import { FileTab } from "./file.js";
import { MicrophoneTab } from "./microphone.js";
import { about, logOut } from "./service.js";

const WAIT_MS = 3000;
const TABS = ["microphone", "file"];

class Header {
  constructor() {
    const title = make("div", { class: "asr-title" }, make("h1", {}, "asr-service"), say(make("p", { class: "asr-soft" }), "tagline"));
    this.model = make("span", { class: "asr-model", hidden: true });
    this.out = say(make("button", { type: "button", class: "asr-button asr-quiet", hidden: true, onclick: logOut }), "log_out");
    this.waiting = make("p", { class: "asr-notice asr-waiting", role: "status", hidden: true });
    const tools = make("div", { class: "asr-tools" }, this.model, languageSwitch(), this.out);
    this.elements = [make("header", { class: "asr-header" }, title, tools), this.waiting];
  }

  serve({ model, login, ready }) {
    this.model.textContent = model ?? "";
    this.model.hidden = model === null;
    this.model.classList.toggle("asr-ready", ready);
    this.out.hidden = !login;
    this.wait(ready ? null : "model_loading");
  }

  /** Say what is waited for; null: nothing. */
  wait(key) {
    this.waiting.hidden = key === null;
    if (key === null) unsay(this.waiting);
    else say(this.waiting, key);
  }
}

function languageSwitch() {
  const group = label(make("div", { class: "asr-switch", role: "group" }), "interface_language");
  const buttons = Object.entries(LANGUAGES).map(([name, { name: own, tag }]) => {
    const button = make("button", { type: "button", lang: tag, onclick: () => choose(name) }, own);
    button.dataset.language = name;
    return button;
  });
  group.append(...buttons);
  onLanguage(() => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.language === language()));
  });
  return group;
}

/** The frame's own words on the tabs, and on the copies by which it measures their width. */
function nameTabs(tabs) {
  for (const container of tabs.querySelectorAll(".tab-container")) {
    container.querySelectorAll("button").forEach((button, i) => {
      const text = [...button.childNodes].find((node) => node.nodeType === Node.TEXT_NODE && node.nodeValue.trim());
      if (text && i < TABS.length) text.nodeValue = t(TABS[i]);
    });
  }
}

const header = new Header();
const tabs = { microphone: new MicrophoneTab(), file: new FileTab() };
const version = make("p", { class: "asr-soft" });

whenThere("#asr-header", (box) => box.append(...header.elements));
whenThere("#asr-footer", (box) => box.append(version));
whenThere("#asr-tabs", (box) => onLanguage(() => nameTabs(box)));
for (const name of TABS) whenThere(`#asr-${name}`, (box) => box.append(...tabs[name].elements));

async function serve() {
  try {
    const offered = await about();
    header.serve(offered);
    for (const tab of Object.values(tabs)) tab.serve(offered);
    version.textContent = `asr-service ${offered.version}`;
    if (!offered.ready) setTimeout(serve, WAIT_MS);
  } catch (error) {
    console.debug(error);
    header.wait("service_unreachable");
    setTimeout(serve, WAIT_MS);
  }
}

await serve();
