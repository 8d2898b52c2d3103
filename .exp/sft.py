import sys,time,math,argparse,random; sys.path.insert(0,'/tmp/p')
ap=argparse.ArgumentParser()
for k,v in dict(n=1000,epochs=4.0,batch=32,lr=8e-3,adamlr=3e-3,hidden=128,layers=4,inter=384,heads=4,kv=2,threads=2,seed=0,wd=0.0,warm=0.05,evaln=60,rope=10000.0,maxs=1e9).items():
    ap.add_argument('--'+k,type=type(v),default=v)
ap.add_argument('--fam',default=''); ap.add_argument('--dev',default='cpu'); ap.add_argument('--bf16',action='store_true'); ap.add_argument('--init',default=''); ap.add_argument('--save',default=''); ap.add_argument('--data',default='')
a=ap.parse_args()
import torch; torch.set_num_threads(a.threads)
from torch.nn import functional as F
from transformers import Qwen2Config,Qwen2ForCausalLM
from r1kit.teacher.tiny.families import *
from r1kit.teacher.tiny.tokenizer import build_tokenizer
tok=build_tokenizer(); fams=a.fam.split(',') if a.fam else list(FAMILIES)
torch.manual_seed(a.seed); dev=a.dev
cfg=Qwen2Config(vocab_size=272,hidden_size=a.hidden,intermediate_size=a.inter,num_hidden_layers=a.layers,num_attention_heads=a.heads,num_key_value_heads=a.kv,max_position_embeddings=1024,tie_word_embeddings=True,rope_theta=a.rope,bos_token_id=256,eos_token_id=257,pad_token_id=258)
m=Qwen2ForCausalLM(cfg).to(dev)
if a.init: m.load_state_dict(torch.load(a.init))
print('params',sum(p.numel() for p in m.parameters()))
def ex(p):
    s=tok.apply_chat_template([{'role':'user','content':p.statement}],add_generation_prompt=True,tokenize=False)
    pi=tok(s,add_special_tokens=False).input_ids; ri=tok(solution(p)+'<|end|>',add_special_tokens=False).input_ids
    return pi,ri
data=[ex(p) for f in fams for p in generate(f,a.n,1,'train')]
tot=sum(len(p)+len(r) for p,r in data); print('examples',len(data),'tokens',tot)
hid=[p for n,p in m.named_parameters() if p.ndim==2 and 'embed' not in n]; oth=[p for n,p in m.named_parameters() if not(p.ndim==2 and 'embed' not in n)]
opts=[torch.optim.Muon(hid,lr=a.lr,weight_decay=a.wd,momentum=0.95),torch.optim.AdamW(oth,lr=a.adamlr,betas=(0.9,0.95),weight_decay=0)]
base=[[g['lr'] for g in o.param_groups] for o in opts]
rng=random.Random(a.seed)
steps_per=len(data)//a.batch; T=int(steps_per*a.epochs); 
def batches():
    while True:
        d=data[:]; rng.shuffle(d); B=[]
        # bucket within chunks
        for c in range(0,len(d),a.batch*16):
            ch=sorted(d[c:c+a.batch*16],key=lambda e:len(e[0])+len(e[1]))
            B+= [ch[i:i+a.batch] for i in range(0,len(ch)-a.batch+1,a.batch)]
        rng.shuffle(B); yield from B
t0=time.time(); ntok=0; it=batches()
for s in range(T):
    b=next(it); L=max(len(p)+len(r) for p,r in b)
    x=torch.full((len(b),L),258); y=torch.full((len(b),L),-100)
    for i,(p,r) in enumerate(b):
        x[i,:len(p)+len(r)]=torch.tensor(p+r); y[i,len(p):len(p)+len(r)]=torch.tensor(r)
        ntok+=len(p)+len(r)
    x,y=x.to(dev),y.to(dev)
    fr=s/T; sc=min(1,(s+1)/(a.warm*T))*(1-0.95*max(0,(fr-0.3)/0.7))
    for o,bl in zip(opts,base):
        for g,l in zip(o.param_groups,bl): g['lr']=l*sc
    with torch.autocast(dev if dev=='cpu' else 'cuda',torch.bfloat16,enabled=a.bf16):
        lg=m(input_ids=x,use_cache=False).logits
    loss=F.cross_entropy(lg[:,:-1].float().reshape(-1,272),y[:,1:].reshape(-1),ignore_index=-100)
    loss.backward(); torch.nn.utils.clip_grad_norm_(m.parameters(),1.0)
    for o in opts: o.step(); o.zero_grad()
    if s%50==0 or s==T-1: print(s,T,f'{loss.item():.4f} {time.time()-t0:.1f}s {ntok/(time.time()-t0):.0f} tok/s',flush=True)
    if time.time()-t0>a.maxs: break
print('train time',time.time()-t0)
if a.save: torch.save(m.state_dict(),a.save)
m.eval()
@torch.no_grad()
def evaluate(f,n):
    ps=generate(f,n,7,'test'); pr=[ex(p)[0]+tok('<think>\n',add_special_tokens=False).input_ids for p in ps]; L=max(map(len,pr))
    x=torch.full((n,L),258); am=torch.zeros(n,L,dtype=torch.long)
    for i,p in enumerate(pr): x[i,L-len(p):]=torch.tensor(p); am[i,L-len(p):]=1
    o=m.generate(input_ids=x.to(dev),attention_mask=am.to(dev),do_sample=False,max_new_tokens=110)
    ok=0
    for i,p in enumerate(ps):
        t=tok.decode(o[i,L:]).split('<|end|>')[0]
        ans=t.rsplit('\\boxed{',1)[-1].split('}')[0]; ok+=check(p,ans)
    return ok/n
r={f:evaluate(f,a.evaln) for f in fams}
print('RESULT',vars(a)['n'],a.epochs,a.batch,a.lr,r,'mean',sum(r.values())/len(r))
