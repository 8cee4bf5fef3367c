/* Cards of the LyCORIS tab: the first click puts a tag into the prompt, the second one takes it out, whatever was added to it.
 * Two names are visible outside: lycorisCardClicked, and lycorisShowCheckpoint of the pages below. */
"use strict";

(function() {
    const TAG = /<lyco:([^:>]+)(?::[^>]*)?>/g;
    const EXTENSION = /\.(safetensors|ckpt|pt)$/i;

    function plain(name) {
        return name.trim().replaceAll("\\", "/").replace(EXTENSION, "").toLowerCase();
    }

    /* Return [start, end] of every tag that means one of the names. */
    function findTags(prompt, names) {
        const wanted = new Set(names.map(plain));
        return Array.from(prompt.matchAll(TAG))
            .filter((found) => wanted.has(plain(found[1])))
            .map((found) => [found.index, found.index + found[0].length]);
    }

    /* Take [start, end] out, with the text that a card added behind it and one separator. */
    function cut(prompt, start, end, text, separator) {
        if (text && prompt.startsWith(" " + text, end)) {
            end += text.length + 1;
        }
        if (separator && prompt.slice(0, start).endsWith(separator)) {
            start -= separator.length;
        } else if (start === 0 && separator && prompt.startsWith(separator, end)) {
            end += separator.length;
        }
        return prompt.slice(0, start) + prompt.slice(end);
    }

    function append(prompt, text, separator) {
        return prompt ? prompt + separator + text : text;
    }

    function remove(prompt, text, separator) {
        const start = text ? prompt.lastIndexOf(text) : -1;
        return start < 0 ? prompt : cut(prompt, start, start + text.length, "", separator);
    }

    /* Return the prompts after a click on a card: {prompt, negative}. */
    function toggle(prompts, card, settings) {
        const separator = settings.separator;
        const tags = findTags(prompts.prompt, card.names.concat(card.name));
        if (tags.length) {
            const prompt = tags.reverse().reduce((text, [start, end]) => cut(text, start, end, card.text, separator), prompts.prompt);
            return {prompt: prompt, negative: remove(prompts.negative, card.negative, separator)};
        }
        const tag = "<lyco:" + card.name + ":" + (card.weight || settings.weight) + ">";
        return {
            prompt: append(prompts.prompt, tag + (card.text ? " " + card.text : ""), separator),
            negative: card.negative ? append(prompts.negative, card.negative, separator) : prompts.negative,
        };
    }

    function write(area, text) {
        if (area && area.value !== text) {
            area.value = text;
            updateInput(area);
        }
    }

    window.lycorisCardClicked = function(tabname, card) {
        const area = (kind) => gradioApp().querySelector("#" + tabname + "_" + kind + " > label > textarea");
        const prompt = area("prompt");
        const negative = area("neg_prompt");
        const settings = {
            separator: opts.extra_networks_add_text_separator ?? " ",
            weight: opts.extra_networks_default_multiplier ?? 1,
        };
        const after = toggle({prompt: prompt.value, negative: negative ? negative.value : ""}, card, settings);
        write(prompt, after.prompt);
        write(negative, after.negative);
    };

    if (typeof module !== "undefined") {
        module.exports = {findTags: findTags, toggle: toggle};
    }
})();

/* Sliders of the page Block weight: what is set in the picture goes, as a list of values, into the page's field, and back.
 * The picture is replaced by the page now and then, so the document listens for it. */
(function() {
    const PAUSE = 120; // milliseconds between two messages to the page while a slider moves
    const LOOK = 400; // milliseconds until it is looked whether the page has understood
    const OURS = ["picture", "values", "te", "unet", "start", "stop"].map((name) => "#lyco_blocks_" + name).join();
    const OTHERS = ["network", "layout", "preset"].map((name) => "#lyco_blocks_" + name).join();
    const MOVES = ["zero", "one", "invert", "mirror", "undo"].map((name) => "#lyco_blocks_" + name).join();
    const moved = new Map(); // what the user set since something else was chosen: a picture that was asked for before lacks it
    let waiting = null;
    let looking = null;

    function field() {
        return document.querySelector("#lyco_blocks_values textarea, #lyco_blocks_values input");
    }

    function blocks() {
        return Array.from(document.querySelectorAll("#lyco_blocks_picture .lyco_block"));
    }

    /* Show a value in both controls of a block, but for the one that it is being typed into. */
    function show(block, value, source) {
        for (const control of block.querySelectorAll("input")) {
            if (control !== source) {
                control.value = value;
            }
        }
        const slider = block.querySelector("input[type=range]");
        const place = (end) => 100 * (Math.min(Math.max(end, slider.min), slider.max) - slider.min) / (slider.max - slider.min) + "%";
        block.style.setProperty("--w", Math.min(Math.abs(value), 1));
        block.style.setProperty("--a", place(Math.min(value, 0)));
        block.style.setProperty("--b", place(Math.max(value, 0)));
        block.classList.toggle("lyco_negative", value < 0);
        block.classList.toggle("lyco_strong", value > 1);
    }

    /* What was measured of the chosen network goes into the picture that is there. */
    function draw() {
        const found = JSON.parse(document.querySelector("#lyco_blocks_legend [data-bars]")?.dataset.bars || "{}");
        for (const block of blocks().filter((one) => one.dataset.block in found)) {
            const [width, said] = found[block.dataset.block];
            const text = block.title.split(":")[0];
            block.querySelector(".lyco_norm i").style.width = width + "%";
            block.title = text + ": " + said;
            block.querySelector("input[type=range]").setAttribute("aria-label", text + "; " + said);
        }
    }

    /* Nothing can be moved before the network of the last visit is there: its layout would take the place of what was set. */
    function hold() {
        document.querySelector("#lyco_blocks_picture").inert = Boolean(document.querySelector("#lyco_blocks_tag [data-lyco-waits]"));
    }

    function watch(place, look, tries) {
        const found = document.querySelector(place);
        if (found) {
            new MutationObserver(look).observe(found, {subtree: true, childList: true, attributes: true});
            look();
        } else if (tries) {
            window.setTimeout(watch, 500, place, look, tries - 1);
        }
    }
    watch("#lyco_blocks_legend", draw, 240);
    watch("#lyco_blocks_tag", hold, 240);

    /* In the order of the layout, which is not that of the picture. */
    function values() {
        const order = document.querySelector("#lyco_blocks_picture .lyco_model").dataset.order.split(" ");
        const found = new Map(blocks().map((block) => [block.dataset.block, block.querySelector("input[type=number]").value || "0"]));
        return order.map((name) => found.get(name)).join(",");
    }

    function write(area, text) {
        area.value = text;
        area.dispatchEvent(new Event("input", {bubbles: true}));
    }

    /* Set again what a picture that came meanwhile lacks; say whether there was such a block. */
    function restore() {
        const lacking = blocks().filter((block) => {
            const value = moved.get(block.dataset.block);
            return value !== undefined && Number(block.querySelector("input[type=number]").value) !== Number(value);
        });
        lacking.forEach((block) => show(block, moved.get(block.dataset.block), null));
        return lacking.length > 0;
    }

    function tell() {
        window.clearTimeout(waiting);
        waiting = null;
        restore();
        const area = field();
        const text = values();
        if (area && area.value.trim() !== text) {
            write(area, text);
        }
    }

    /* What the fields say, written as the page marks the tag that it made of them. */
    function said() {
        const numbers = ["te", "unet", "start", "stop"].map((name) => {
            const input = document.querySelector("#lyco_blocks_" + name + " input");
            return !input || input.value === "" ? "" : String(Number(input.value));
        });
        return [field().value.trim(), ...numbers].join("|");
    }

    /* Gradio 3 drops an event that comes while the last one is still worked on: then the field changes by a space, which is one more. */
    function settle(tries) {
        window.clearTimeout(looking);
        looking = window.setTimeout(() => {
            const mark = document.querySelector("#lyco_blocks_tag [data-understood]");
            const area = field();
            if (restore()) {
                tell();
            }
            if (tries && mark && area && mark.dataset.understood !== said()) {
                write(area, area.value.endsWith(" ") ? area.value.trim() : area.value + " ");
                settle(tries - 1);
            }
        }, LOOK);
    }

    function read(text) {
        const order = document.querySelector("#lyco_blocks_picture .lyco_model").dataset.order.split(" ");
        const typed = text.split(/[,;\n]/).map((piece) => piece.trim());
        if (typed.length !== order.length || typed.some((piece) => piece === "" || !Number.isFinite(Number(piece)))) {
            return;
        }
        const found = new Map(order.map((name, index) => [name, typed[index]]));
        blocks().forEach((block) => show(block, found.get(block.dataset.block), null));
    }

    document.addEventListener("input", (event) => {
        const target = event.target;
        if (!event.isTrusted || !(target instanceof Element) || !target.closest(OURS)) {
            return;
        }
        settle(8);
        if (target === field()) {
            moved.clear();
            read(target.value);
            return;
        }
        const block = target.closest("#lyco_blocks_picture .lyco_block");
        if (!block || !Number.isFinite(parseFloat(target.value))) {
            moved.delete(block?.dataset.block); // being typed
            return;
        }
        moved.set(block.dataset.block, target.value);
        show(block, target.value, target);
        waiting = waiting || window.setTimeout(tell, PAUSE);
    });

    /* What is chosen there, or done by a button, brings values of its own: those from before are told first, and not once more. */
    function done() {
        if (waiting) {
            tell();
        }
        moved.clear();
        window.clearTimeout(looking);
    }

    document.addEventListener("focusin", (event) => {
        if (event.target instanceof Element && event.target.closest(OTHERS)) {
            done();
        }
    });

    document.addEventListener("click", (event) => {
        if (event.target instanceof Element && event.target.closest(MOVES)) {
            done();
        }
    }, true);

    document.addEventListener("change", (event) => {
        const target = event.target;
        if (waiting && target instanceof Element && target.closest("#lyco_blocks_picture")) {
            tell();
        }
    });
})();

/* Buttons of the LyCORIS pages: data-lyco-copy holds a text for the clipboard, data-lyco-send a tag and
 * data-lyco-add words for the prompt. */
(function() {
    const PROMPTS = "#txt2img_prompt textarea, #lyco_prompt textarea";

    /* Works without the permission that navigator.clipboard needs, and on addresses that are not https. */
    function copyOldWay(text) {
        const area = document.createElement("textarea");
        area.value = text;
        area.style.cssText = "position: fixed; opacity: 0;";
        document.body.appendChild(area);
        area.select();
        const done = document.execCommand("copy");
        area.remove();
        return done;
    }

    async function copy(text) {
        try {
            await navigator.clipboard.writeText(text);
            return true;
        } catch (refused) {
            return copyOldWay(text);
        }
    }

    function say(button, word) {
        button.dataset.lycoWord = button.dataset.lycoWord || button.textContent;
        button.textContent = word;
        window.setTimeout(() => {
            button.textContent = button.dataset.lycoWord;
        }, 1500);
    }

    /* Words go behind the prompt if they are not there yet; each tag replaces one of the same network, else it goes behind too. */
    function added(prompt, text) {
        const tags = text.match(/<lyco:[^>]*>/g);
        if (tags) {
            return tags.reduce(withTag, prompt);
        }
        return prompt.includes(text) ? prompt : prompt.trim() ? `${prompt.trimEnd()}, ${text}` : text;
    }

    function withTag(prompt, tag) {
        const name = (tag.match(/^<lyco:([^:>]+)/) || [])[1];
        const same = name && prompt.match(/<lyco:[^>]*>/g)?.find((found) => found.slice(6).split(/[:>]/)[0].trim() === name.trim());
        return same ? prompt.replace(same, () => tag) : `${prompt.trimEnd()} ${tag}`.trimStart();
    }

    function send(text) {
        const area = document.querySelector(PROMPTS);
        if (!area) {
            return false;
        }
        area.value = added(area.value, text);
        area.dispatchEvent(new Event("input", {bubbles: true}));
        window.lycorisOpen(area.closest("#lyco_page") ? "Generate" : "txt2img");
        return true;
    }

    function add(text) {
        const area = document.querySelector(PROMPTS);
        if (!area) {
            return false;
        }
        area.value = area.value.trim() ? `${area.value.trimEnd().replace(/,$/, "")}, ${text}` : text;
        area.dispatchEvent(new Event("input", {bubbles: true}));
        return true;
    }

    /* After a checkpoint was selected on our page: have the webui's own field at the top show it. */
    window.lycorisShowCheckpoint = function() {
        window.setTimeout(() => {
            const title = document.querySelector("#lyco_page [data-lyco-checkpoint]")?.dataset.lycoCheckpoint;
            if (title && typeof selectCheckpoint === "function") {
                const refresh = document.getElementById("forge_refresh_checkpoint"); // the Forges show only what their list holds
                refresh?.click();
                window.setTimeout(() => selectCheckpoint(title), refresh ? 3000 : 0);
            }
        }, 100);
    };

    document.addEventListener("click", async(event) => {
        const button = event.target instanceof Element ? event.target.closest("[data-lyco-copy], [data-lyco-send], [data-lyco-add]") : null;
        if (!button) {
            return;
        }
        if (button.dataset.lycoCopy !== undefined) {
            say(button, await copy(button.dataset.lycoCopy) ? "Copied" : "Press Ctrl+C");
        } else if (button.dataset.lycoAdd !== undefined) {
            say(button, add(button.dataset.lycoAdd) ? "Added" : "No prompt here");
        } else if (!send(button.dataset.lycoSend)) {
            say(button, "No prompt here");
        }
    });
})();

/* Tables of networks: what is typed into the cells goes, as JSON, into the field that the table names. */
(function() {
    function tell(table) {
        const field = document.querySelector("#" + table.dataset.lycoRows + " :is(textarea, input)");
        const rows = Array.from(table.querySelectorAll("tbody tr"), (row) => [
            row.dataset.name,
            ...Array.from(row.querySelectorAll("[data-cell]"), (cell) => cell.value),
        ]);
        if (field) {
            field.value = JSON.stringify(rows);
            field.dispatchEvent(new Event("input", {bubbles: true}));
        }
    }

    document.addEventListener("input", (event) => {
        const table = event.target instanceof Element && event.target.matches("[data-cell]") && event.target.closest("[data-lyco-rows]");
        if (table) {
            tell(table);
        }
    });

    document.addEventListener("click", (event) => {
        const button = event.target instanceof Element ? event.target.closest("[data-lyco-remove]") : null;
        if (!button) {
            return;
        }
        const row = button.closest("tr");
        const table = row.closest("[data-lyco-rows]");
        const next = row.nextElementSibling || row.previousElementSibling;
        const adder = document.querySelector("#" + table.dataset.lycoRows.replace(/_rows$/, "_add") + " input");
        row.remove();
        ((next && next.querySelector("[data-lyco-remove]")) || adder)?.focus();
        tell(table);
    });
})();

/* What Gradio leaves out for screen readers: words of the round arrow beside a list, that a field with a list is a combobox, and in Gradio 3
   which slider the number beside it belongs to. */
(function() {
    const WORDS = "Look for new files";
    let asked = false;

    function say() {
        asked = false;
        for (const button of document.querySelectorAll(".lyco_refresh:not([aria-label])")) {
            button.setAttribute("aria-label", WORDS);
            button.title = WORDS;
        }
        for (const field of document.querySelectorAll("#lyco_page input[role=listbox]")) {
            field.setAttribute("role", "combobox");
        }
        for (const number of document.querySelectorAll("#lyco_page .head > input[type=number]:not([aria-label])")) {
            number.setAttribute("aria-label", number.parentElement.textContent.trim() + ", as a number");
        }
    }

    function later() {
        if (!asked) {
            asked = true;
            window.requestAnimationFrame(say);
        }
    }

    if (typeof MutationObserver !== "undefined") {
        new MutationObserver(later).observe(document.documentElement, {childList: true, subtree: true});
        later();
    }
})();

/* Cards of the page Networks: a click chooses one, another click lets it go; the names go, as JSON, into the page's field. */
(function() {
    document.addEventListener("click", (event) => {
        const button = event.target instanceof Element ? event.target.closest("[data-lyco-pick]") : null;
        const field = document.querySelector("#lyco_networks_picked :is(textarea, input)");
        if (!button || !field) {
            return;
        }
        const name = button.closest("[data-name]").dataset.name;
        const before = JSON.parse(field.value || "[]");
        const picked = before.includes(name) ? before.filter((one) => one !== name) : before.concat(name);
        button.setAttribute("aria-pressed", String(picked.includes(name)));
        field.value = JSON.stringify(picked);
        field.dispatchEvent(new Event("input", {bubbles: true}));
    });
})();
