// A stand-in for a Terraform provider: it has the resources of a schema file and makes nothing.
//
// TERRAFORM_SCHEMAS names the file (schemas.json beside this one): by provider, resource and attribute. An attribute is a type and how it is
// given ("string required", "number optional", "string computed", "map optional computed"), a block an object with "block" ("list" or "set"),
// "min", "max" and "of". Which provider it is, its own file name says: terraform-provider-NAME_v1.2.3.
package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/terraform-plugin-sdk/v2/diag"
	"github.com/hashicorp/terraform-plugin-sdk/v2/helper/schema"
	"github.com/hashicorp/terraform-plugin-sdk/v2/plugin"
)

type block struct {
	Block string                     `json:"block"`
	Min   int                        `json:"min"`
	Max   int                        `json:"max"`
	Of    map[string]json.RawMessage `json:"of"`
}

var types = map[string]schema.ValueType{
	"string": schema.TypeString, "number": schema.TypeFloat, "bool": schema.TypeBool,
	"map": schema.TypeMap, "list": schema.TypeList, "set": schema.TypeSet,
}

func attribute(raw json.RawMessage) *schema.Schema {
	var words string
	if json.Unmarshal(raw, &words) == nil {
		given := strings.Fields(words)
		out := &schema.Schema{Type: types[given[0]]}
		for _, word := range given[1:] {
			out.Required = out.Required || word == "required"
			out.Optional = out.Optional || word == "optional"
			out.Computed = out.Computed || word == "computed"
		}
		switch out.Type {
		case schema.TypeMap, schema.TypeList, schema.TypeSet:
			out.Elem = &schema.Schema{Type: schema.TypeString}
		}
		return out
	}
	var nested block
	if err := json.Unmarshal(raw, &nested); err != nil {
		panic(err)
	}
	out := &schema.Schema{Type: types[nested.Block], MinItems: nested.Min, MaxItems: nested.Max, Elem: &schema.Resource{Schema: attributes(nested.Of)}}
	out.Required, out.Optional = nested.Min > 0, nested.Min == 0
	return out
}

func attributes(raw map[string]json.RawMessage) map[string]*schema.Schema {
	out := map[string]*schema.Schema{}
	for name, one := range raw {
		out[name] = attribute(one)
	}
	return out
}

func provider() *schema.Provider {
	text, err := os.ReadFile(os.Getenv("TERRAFORM_SCHEMAS"))
	if err != nil {
		panic(err)
	}
	all := map[string]map[string]map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &all); err != nil {
		panic(err)
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(os.Args[0]), "terraform-provider-"), "_")
	out := &schema.Provider{ResourcesMap: map[string]*schema.Resource{}}
	nothing := func(context.Context, *schema.ResourceData, any) diag.Diagnostics { return diag.Errorf("a stand-in makes nothing") }
	for resource, fields := range all[name] {
		made := attributes(fields)
		delete(made, "id") // every resource of the SDK has one
		out.ResourcesMap[resource] = &schema.Resource{Schema: made, CreateContext: nothing, ReadContext: nothing, UpdateContext: nothing, DeleteContext: nothing}
	}
	return out
}

func main() {
	plugin.Serve(&plugin.ServeOpts{ProviderFunc: provider})
}
