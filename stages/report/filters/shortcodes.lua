--[[
Put the values of _variables.yml where the text says {{< var name >}}.

Quarto replaces a variable after it has parsed the markdown, so a value can neither break a table
nor change how wide its columns are; this filter does the same. The file is read from the working
folder, a value is markdown, and an unknown name is an error (the Python check names its line).
]]

local function read(path)
  local file = assert(io.open(path, "r"), "cannot read " .. path)
  local text = file:read("a")
  file:close()
  return text
end

local variables = pandoc.read("---\n" .. read("_variables.yml") .. "\n---\n", "markdown").meta

local function lookup(name)
  local value = variables
  for key in name:gmatch("[^.]+") do
    value = type(value) == "table" and value[key] or nil
  end
  assert(value ~= nil, "unknown variable " .. name)
  return pandoc.utils.type(value) == "Inlines" and value
    or pandoc.Inlines(pandoc.utils.stringify(value))
end

-- In the AST a shortcode is the words "{{<" "var" "name" ">}}", the first and the last with
-- whatever touches them: "({{<" or ">}}),".
local function shortcode_at(inlines, i)
  local words = {}
  for step = 0, 6 do
    local inline = inlines[i + step]
    if inline == nil or inline.t ~= (step % 2 == 0 and "Str" or "Space") then
      return nil
    end
    words[#words + 1] = inline.text
  end
  local before = words[1]:match("^(.*){{<$")
  local after = words[4]:match("^>}}(.*)$")
  if before and words[2] == "var" and after then
    return before, words[3], after
  end
end

local function replace_words(inlines)
  local result = pandoc.Inlines {}
  local i = 1
  while i <= #inlines do
    local before, name, after = shortcode_at(inlines, i)
    if before then
      if before ~= "" then
        result:insert(pandoc.Str(before))
      end
      result:extend(lookup(name))
      -- What follows may open the next shortcode, as in {{< var low >}}-{{< var high >}}.
      i = i + 6
      if after ~= "" then
        inlines[i] = pandoc.Str(after)
      else
        i = i + 1
      end
    else
      result:insert(inlines[i])
      i = i + 1
    end
  end
  return result
end

local function replace_text(text)
  return (text:gsub("{{<%s+var%s+(%S+)%s+>}}", function(name)
    return pandoc.utils.stringify(lookup(name))
  end))
end

local function verbatim(element)
  element.text = replace_text(element.text)
  return element
end

local function attributes(element)
  for key, value in pairs(element.attributes) do
    element.attributes[key] = replace_text(value)
  end
  return element
end

return {
  {
    Inlines = replace_words,
    Math = verbatim,
    Code = verbatim,
    CodeBlock = verbatim,
    RawInline = verbatim,
    RawBlock = verbatim,
    Image = attributes,
  },
}
