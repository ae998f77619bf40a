module github.com/natless/natless/cmd/natless-fleet

go 1.26.3

require github.com/natless/natless v0.0.0

replace github.com/natless/natless => ../..
