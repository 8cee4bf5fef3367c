/* Cards of the LyCORIS tab: the first click puts a tag into the prompt, the second one takes it out, whatever was added to it.
 * One name is visible outside: lycorisCardClicked. */
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
        if (card.problem) {
            window.alert(card.problem);
            return;
        }
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
