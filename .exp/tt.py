import sys,time,json; sys.path.insert(0,'/tmp/p')
import torch
from pathlib import Path
from r1kit.teacher.tiny.train import *
from r1kit.teacher.tiny.families import *
from r1kit.teacher.tiny.examples import NO_THINKING
name=sys.argv[1]; kw=eval('dict(%s)'%sys.argv[2])
s=TinySettings(**kw)
m,f=train(s,device='cuda',progress=lambda *a: (a[0]%500==0) and print(name,a,flush=True))
print(name,f,flush=True)
tok=build_tokenizer()
@torch.no_grad()
def evaluate(fam,n,prefill,temp):
    ps=generate(fam,n,7,'test'); pr=[tok(f'<|begin|><|user|>{p.statement}<|assistant|>{prefill}',add_special_tokens=False).input_ids for p in ps]; L=max(map(len,pr))
    x=torch.full((n,L),258); am=torch.zeros(n,L,dtype=torch.long)
    for i,p in enumerate(pr): x[i,L-len(p):]=torch.tensor(p); am[i,L-len(p):]=1
    o=m.generate(input_ids=x.cuda(),attention_mask=am.cuda(),do_sample=temp>0,temperature=temp or None,top_p=1.0,top_k=0,max_new_tokens=120)
    ok=0
    for i,p in enumerate(ps):
        t=tok.decode(o[i,L:]).split('<|end|>')[0]
        ok+=check(p,t.rsplit('\\boxed{',1)[-1].split('}')[0])
    return ok/n
m.set_experts_implementation('grouped_mm'); 
r={}
for fam in FAMILIES:
    n=150
    r[fam]=[evaluate(fam,n,'<think>\n',1.0),evaluate(fam,n,'<think>\n',0.6),evaluate(fam,n,NO_THINKING,0.6)]
print(name,'EVAL T1,T.6,nothink',r,flush=True)
f['eval']=r
save(m,f,Path('/tmp/'+name))
import os; os.system(f'cd /tmp && tar cf $OUT/{name}.tar {name}')
