// Self-contained HTML pages: one file, no network, light and dark. Used by reports and by the pages of `inspect`.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/config.h"

namespace accrete {

// Text inside an element or a quoted attribute. Invalid UTF-8 becomes U+FFFD, control bytes other than newline and tab
// too.
std::string html_escape(std::string_view text);

// JSON inside a <script> element: "<" is written \u003c, so no text in it can end the element. NaN becomes null.
std::string html_json(const Json& value);

// The whole page: shared style, then `style`, `body` (HTML), then `script` (JavaScript, "" for none).
// The content security policy forbids every request, so a page cannot load or send anything even if a text in it tried.
std::string html_page(std::string_view title, std::string_view body, std::string_view style = "",
                      std::string_view script = "");

}  // namespace accrete
